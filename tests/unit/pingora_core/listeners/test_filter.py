from __future__ import annotations

import pytest

from pingora_core.listeners.filter import AcceptAllFilter
from pingora_core.protocols.address import InetAddress


@pytest.mark.parametrize("addr", [None, InetAddress("192.0.2.1", 1)], ids=["unix", "tcp"])
async def test_accept_all_accepts_all(addr: InetAddress | None) -> None:
    """It is the same as no filter."""
    assert await AcceptAllFilter().should_accept(addr)
