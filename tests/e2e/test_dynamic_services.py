"""The example whose services come and go: on real sockets, in a process of its own."""

from __future__ import annotations

import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support.client import RawClient
from tests.support.process import ROOT, ServerProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

EXAMPLE = str(ROOT / "examples" / "dynamic_services.py")


class Remote:
    """The control endpoint of a running example.

    Args:
        address: Where it listens.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    async def ask(self, method: str, target: str) -> tuple[int, str]:
        async with await RawClient.connect(self.address) as client:
            response = await client.request(method, target)
        return response.status, response.body.decode().strip()

    async def start(self, name: str, says: str, listen: str) -> str:
        """Start a service; return its address."""
        status, text = await self.ask("PUT", f"/services/{name}?listen={listen}&text={says}")
        assert (status, text.split()[0]) == (201, name)
        return text.rpartition(" ")[2]


@asynccontextmanager
async def running() -> AsyncIterator[Remote]:
    async with ServerProcess(EXAMPLE, "--listen", "127.0.0.1:0") as process:
        host, port = await process.running()
        yield Remote(f"{host}:{port}")
        process.send(signal.SIGTERM)
        assert await process.wait() == 0


async def get(address: str) -> str:
    async with await RawClient.connect(address) as client:
        return (await client.request("GET", "/")).body.decode().strip()


async def test_services_come_and_go() -> None:
    """A service answers as soon as it was started, beside others, and is gone once stopped."""
    async with running() as remote:
        one = await remote.start("one", "one", "127.0.0.2:0")
        two = await remote.start("two", "two", "127.0.0.3:0")
        assert (await get(one), await get(two)) == ("one", "two")
        assert await remote.ask("GET", "/services") == (200, f"one {one}\ntwo {two}")

        assert await remote.ask("DELETE", "/services/one") == (204, "")
        with pytest.raises(ConnectionRefusedError):
            await get(one)
        assert await get(two) == "two"
        # The same name, at the same address.
        assert await remote.start("one", "again", one) == one
        assert await get(one) == "again"


async def test_a_service_moves_and_keeps_its_connections() -> None:
    """A connection to the old address goes on; new ones are served at the new address."""
    async with running() as remote:
        old = await remote.start("a", "text", "127.0.0.2:0")
        async with await RawClient.connect(old) as client:
            assert (await client.request("GET", "/")).body == b"text\n"
            status, text = await remote.ask("POST", "/services/a?listen=127.0.0.3:0")
            assert status == 200
            new = text.rpartition(" ")[2]
            assert await get(new) == "text"
            assert (await client.request("GET", "/")).body == b"text\n"
            with pytest.raises(ConnectionRefusedError):
                await get(old)


@pytest.mark.parametrize("address", ["192.0.2.1:80", "nonsense", ""])
async def test_what_cannot_be_started_harms_nothing(address: str) -> None:
    """An address that is not ours or makes no sense is told; the server and the others go on."""
    async with running() as remote:
        one = await remote.start("one", "one", "127.0.0.2:0")
        for method, name in (("PUT", "two"), ("POST", "one")):
            status, text = await remote.ask(method, f"/services/{name}?listen={address}")
            assert status == 409
            assert address in text
        assert (await remote.ask("DELETE", "/services/two"))[0] == 404
        assert await remote.ask("GET", "/services") == (200, f"one {one}")
        assert await get(one) == "one"
