"""The example whose backends come from elsewhere: on real sockets, in a process of its own."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from tests.support.client import RawClient
from tests.support.origin import Origin
from tests.support.origin_steps import reply
from tests.support.process import ROOT, ServerProcess

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLE = str(ROOT / "examples" / "discovered.py")


async def answers(address: str, wanted: bytes) -> None:
    """Ask until the answer is the one wanted."""
    async with asyncio.timeout(30):
        while True:
            async with await RawClient.connect(address) as client:
                if (await client.request("GET", "/")).body == wanted:
                    return
            await asyncio.sleep(0.02)


async def test_a_file_that_changes_and_breaks(tmp_path: Path) -> None:
    """Requests go where the file says; a broken file changes nothing; the next source stands by."""
    path = tmp_path / "backends.yaml"
    async with (
        Origin(reply(body=b"one")) as one,
        Origin(reply(body=b"two")) as two,
        Origin(reply(body=f'["{one.address}"]'.encode())) as inventory,
    ):
        path.write_text(f"[{one.address}]")
        sources = (f"file:{path}", f"http://{inventory.address}/")
        async with ServerProcess(EXAMPLE, *sources, "--listen", "127.0.0.1:0") as process:
            host, port = await process.running()
            address = f"{host}:{port}"
            await answers(address, b"one")
            path.write_text(f"[{two.address}]")
            await answers(address, b"two")
            path.write_text("[127.0.0.1:")
            # The file has failed, so the next source counts.
            await answers(address, b"one")
            path.write_text(f"[{two.address}]")
            await answers(address, b"two")
            process.send(signal.SIGTERM)
            assert await process.wait() == 0
