"""A WebSocket server that sends back what it gets, always in the same way.

Run with the port to listen on. It answers each message before it looks at the next frame, however
the bytes arrive: an echo by a coroutine comes sometimes before and sometimes after the complaint
about a bad frame that follows, and then nobody can say what a proxy changed.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import TYPE_CHECKING

from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

if TYPE_CHECKING:
    from websockets.frames import Frame

_CLOSE_SECONDS = 1.0


class _Echo(ServerProtocol):
    def __init__(self) -> None:
        super().__init__(max_size=None, extensions=[ServerPerMessageDeflateFactory()])
        self._pieces: list[bytes] = []
        self._is_text = False

    def recv_frame(self, frame: Frame) -> None:
        super().recv_frame(frame)
        if frame.opcode not in {Opcode.TEXT, Opcode.BINARY, Opcode.CONT}:
            return
        if frame.opcode != Opcode.CONT:
            self._is_text = frame.opcode == Opcode.TEXT
        self._pieces.append(bytes(frame.data))
        if frame.fin:
            message = b"".join(self._pieces)
            self._pieces.clear()
            if self._is_text:
                message.decode()  # what this raises becomes a close with 1007
                self.send_text(message)
            else:
                self.send_binary(message)


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._echo = _Echo()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._echo.receive_data(data)
        self._send()

    def eof_received(self) -> None:
        self._echo.receive_eof()
        self._send()

    def pause_writing(self) -> None:
        assert self._transport is not None
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        assert self._transport is not None
        self._transport.resume_reading()

    def _send(self) -> None:
        assert self._transport is not None
        for event in self._echo.events_received():
            if isinstance(event, Request):
                self._echo.send_response(self._echo.accept(event))
        for data in self._echo.data_to_send():
            if data:
                self._transport.write(data)
            else:  # this is how the library says that its side ends
                self._transport.write_eof()
                asyncio.get_running_loop().call_later(_CLOSE_SECONDS, self._transport.close)


async def _main(port: int) -> None:
    logging.getLogger("websockets").setLevel(logging.CRITICAL)
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1])))
