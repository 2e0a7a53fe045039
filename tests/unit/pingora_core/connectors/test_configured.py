"""Connectors that follow the configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pingora_core.conf import ServerConf
from pingora_core.connectors.configured import Configured
from pingora_error import Error, ErrorType

if TYPE_CHECKING:
    from pathlib import Path

    from pingora_core.connectors.options import ConnectorOptions


class Made:
    """A connector that notes what becomes of it."""

    def __init__(self, options: ConnectorOptions) -> None:
        if options.keepalive_pool_size == 13:
            raise Error.internal(ErrorType.INTERNAL_ERROR, "unlucky")
        self.options = options
        self.fate: list[str] = []

    def retire(self) -> None:
        self.fate.append("retired")

    async def close(self) -> None:
        self.fate.append("closed")


async def test_it_stays_when_nothing_that_matters_has_changed() -> None:
    """Pooled connections survive a reload that is about something else."""
    configured = Configured(Made, ServerConf())
    made = configured.connector

    await configured.reload(ServerConf(max_retries=3, grace_period_seconds=1.0))

    assert configured.connector is made
    assert made.fate == []


async def test_another_one_takes_its_place() -> None:
    """The old one is retired, and closed when the next reload or the end comes."""
    configured = Configured(Made, ServerConf())
    first = configured.connector
    await configured.reload(ServerConf(upstream_keepalive_pool_size=5))
    second = configured.connector
    assert second.options.keepalive_pool_size == 5
    assert first.fate == ["retired"]

    await configured.reload(ServerConf(client_bind_to_ipv4=("127.0.0.2",)))
    assert (first.fate, second.fate) == (["retired", "closed"], ["retired"])

    await configured.close()
    assert second.fate == ["retired", "closed"]
    assert configured.connector.fate == ["closed"]


async def test_a_ca_file_that_was_renewed_counts_as_a_change(tmp_path: Path) -> None:
    """What is trusted is what is in the file now."""
    path = tmp_path / "ca.pem"
    path.write_text("one")
    conf = ServerConf(ca_file=str(path))
    configured = Configured(Made, conf)
    first = configured.connector
    await configured.reload(conf)
    assert configured.connector is first

    path.write_text("another")
    await configured.reload(conf)

    assert configured.connector is not first


async def test_what_cannot_be_made_changes_nothing() -> None:
    """A reload that fails leaves the connector in use."""
    configured = Configured(Made, ServerConf())
    first = configured.connector

    with pytest.raises(Error, match="unlucky"):
        await configured.reload(ServerConf(upstream_keepalive_pool_size=13))

    assert configured.connector is first
    assert first.fate == []
