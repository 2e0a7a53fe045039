"""A backend that misbehaves when told to: ``GET /_set?delay=2&status=500`` from then on.

Takes its name and its port; port 0 is any. Says on standard output where it listens.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from urllib.parse import parse_qs

import uvloop


class Backend:
    """Answers every request in the way it was told to last."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.delay = 0.0
        self.status = 200

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                target = head.split(b" ", 2)[1].decode()
                status = 200
                if target.startswith("/_set?"):
                    options = parse_qs(target.partition("?")[2])
                    self.delay = float(options["delay"][0])
                    self.status = int(options["status"][0])
                else:
                    status = self.status
                    await asyncio.sleep(self.delay)
                    if writer.transport.is_closing():
                        return  # the proxy has not waited
                writer.write(
                    f"HTTP/1.1 {status} Said\r\nX-Backend: {self.name}\r\n"
                    "Content-Length: 2\r\n\r\nok".encode()
                )
                await writer.drain()
        writer.close()


async def main(name: str, port: int) -> None:
    backend = Backend(name)
    server = await asyncio.start_server(backend.serve, "127.0.0.1", port)
    async with server:
        sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
        sys.stdout.flush()
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
