"""A UDP server: sends every datagram back to whoever sent it.

Run it and try::

    python examples/udp_echo.py --listen 127.0.0.1:6053
    echo hello | nc -u -W 1 127.0.0.1 6053

A request ``slow`` is answered after a second, by an application that may wait; ``--async`` uses it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pingora_core import Opt, Server
from pingora_core.apps import AsyncDatagramApp, DatagramApp
from pingora_core.services import DatagramService

if TYPE_CHECKING:
    from pingora_core.protocols.l4 import Datagram


class Echo(DatagramApp):
    """Answers at once; what is called here must not wait for anything."""

    def datagram_received(self, datagram: Datagram) -> None:
        datagram.reply(datagram.data)


class PatientEcho(AsyncDatagramApp):
    """Has a task for each datagram."""

    async def process(self, datagram: Datagram) -> bytes | None:
        if datagram.data.strip() == b"slow":
            await asyncio.sleep(1)
        return datagram.data


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("Sends every datagram back.")
    parser.add_argument("--listen", default="127.0.0.1:6053", metavar="ADDRESS")
    parser.add_argument("--async", action="store_true", dest="patient")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    server = Server(Opt.from_namespace(args))
    app = PatientEcho(max_concurrency=100, timeout=5.0) if args.patient else Echo()
    echo = DatagramService("udp echo", app)
    echo.add_udp(args.listen)
    server.add_service(echo)
    server.run_forever()


if __name__ == "__main__":
    main()
