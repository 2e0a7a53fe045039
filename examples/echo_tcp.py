"""A TCP server without HTTP: sends every line back to whoever wrote it.

Run it and try::

    python examples/echo_tcp.py
    echo hello | nc -N 127.0.0.1 6142

Stop it with SIGTERM: a line that is being sent may end, idle connections are closed at once.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pingora_core import Opt, Server, ServerApp, Service

if TYPE_CHECKING:
    from pingora_core import ShutdownWatch, Stream

IDLE_TIMEOUT = 60.0
LINE_TIMEOUT = 10.0


class EchoApp(ServerApp):
    """Echoes one line at a time; between two lines a connection is idle."""

    async def process_new(self, stream: Stream, shutdown: ShutdownWatch) -> Stream | None:
        forget = shutdown.subscribe(stream.close)
        try:
            piece = await stream.read(IDLE_TIMEOUT)
        finally:
            forget()
        while piece:
            stream.write(piece)
            await stream.drain(LINE_TIMEOUT)
            if piece.endswith(b"\n"):
                return stream
            piece = await stream.read(LINE_TIMEOUT)
        return None


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("Sends every line back.")
    parser.add_argument("--listen", default="127.0.0.1:6142", metavar="ADDRESS")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    server = Server(Opt.from_namespace(args))
    echo = Service("echo", EchoApp())
    echo.add_tcp(args.listen)
    server.add_service(echo)
    server.run_forever()


if __name__ == "__main__":
    main()
