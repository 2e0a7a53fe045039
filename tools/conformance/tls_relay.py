"""Takes connections in clear and carries them over TLS, for a suite that speaks none.

Run with the port to listen on, the port to connect to, and a file with the root to trust.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys

_PIECE = 65536


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    # TLS has no half-closed connections to speak of: when one side ends, so does the other.
    try:
        while piece := await reader.read(_PIECE):
            writer.write(piece)
            await writer.drain()
    except (OSError, ssl.SSLError):
        writer.transport.abort()
    finally:
        writer.close()


async def _serve(port: int, target: int, root: str) -> None:
    context = ssl.create_default_context(cafile=root)
    context.set_alpn_protocols(["http/1.1"])

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(
                "127.0.0.1", target, ssl=context, server_hostname="localhost"
            )
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(_carry(reader, back), _carry(there, writer))
        for each in (writer, back):
            with contextlib.suppress(OSError, ssl.SSLError):
                await each.wait_closed()

    server = await asyncio.start_server(relay, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
