"""The identity of a pooled connection is a value."""

from __future__ import annotations

import dataclasses

import pytest

from pingora_pool import ConnectionMeta


def test_meta_is_a_value() -> None:
    """Metas that say the same are equal and hash alike; they cannot change."""
    meta = ConnectionMeta(("10.0.0.1", 80), 7)

    assert meta == ConnectionMeta(("10.0.0.1", 80), 7)
    assert hash(meta) == hash(ConnectionMeta(("10.0.0.1", 80), 7))
    assert meta != ConnectionMeta(("10.0.0.1", 80), 8)
    with pytest.raises(dataclasses.FrozenInstanceError):
        meta.id = 8  # type: ignore[misc]
