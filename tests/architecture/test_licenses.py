"""Every distribution carries the licence, as a file of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.architecture.workspace import MEMBERS, ROOT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name)
def test_the_licence_is_a_true_copy(member: Path) -> None:
    """A link would dangle in the sdist; a copy must not drift."""
    licence = member / "LICENSE"

    assert not licence.is_symlink()
    assert licence.read_bytes() == (ROOT / "LICENSE").read_bytes()
