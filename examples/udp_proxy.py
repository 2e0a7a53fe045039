"""Forwards datagrams to an upstream, and its answers to whoever has asked.

Each client has a session with a socket of its own, so that answers find their way back. A session
ends when nothing has passed for a while, and there are never more than so many. Run it and try::

    python examples/udp_proxy.py 9.9.9.9:53 --listen 127.0.0.1:6054
    dig -p 6054 @127.0.0.1 example.org
"""

from __future__ import annotations

import logging
import socket
from functools import partial
from typing import TYPE_CHECKING

from pingora_core import Opt, Server
from pingora_core.apps import DatagramApp
from pingora_core.protocols.address import InetAddress, parse_socket_address
from pingora_core.protocols.l4 import DatagramEndpoint
from pingora_core.runtime import Deadline, get_timers
from pingora_core.services import DatagramService, Placement

if TYPE_CHECKING:
    from pingora_core.protocols.l4 import Datagram
    from pingora_core.protocols.l4.datagram import SockAddr

logger = logging.getLogger(__name__)


class Session:
    """One client: its socket to the upstream, and when it will be forgotten."""

    def __init__(self, proxy: UdpProxy, first: Datagram, sock: socket.socket) -> None:
        self.client = first
        self.idle_timeout = proxy.idle_timeout
        # An upstream that refuses (ICMP) may come back; the client will ask again.
        self.upstream = DatagramEndpoint(sock, self.answer)
        self.upstream.start_reading()
        self.expiry = Deadline(get_timers(), partial(proxy.forget, first.sender))

    def forward(self, datagram: Datagram) -> None:
        self.client = datagram
        self.expiry.set(self.idle_timeout)
        self.upstream.send(datagram.data)

    def answer(self, datagram: Datagram) -> None:
        self.expiry.set(self.idle_timeout)
        self.client.reply(datagram.data)

    def close(self) -> None:
        self.expiry.cancel()
        self.upstream.close()


class UdpProxy(DatagramApp):
    """Keeps the sessions; a client for whom there is no room is not served."""

    def __init__(self, upstream: InetAddress, idle_timeout: float, max_sessions: int) -> None:
        self.upstream = upstream
        self.idle_timeout = idle_timeout
        self.max_sessions = max_sessions
        self.sessions: dict[SockAddr, Session] = {}
        self.refused = 0

    def datagram_received(self, datagram: Datagram) -> None:
        session = self.sessions.get(datagram.sender)
        if session is None:
            if len(self.sessions) >= self.max_sessions:
                self.refused += 1
                return
            session = self.sessions[datagram.sender] = self.open(datagram)
        session.forward(datagram)

    def open(self, first: Datagram) -> Session:
        sock = socket.socket(self.upstream.family, socket.SOCK_DGRAM)
        try:
            sock.settimeout(0)
            sock.connect(self.upstream.sockaddr)
            return Session(self, first, sock)
        except BaseException:
            sock.close()
            raise

    def forget(self, client: SockAddr) -> None:
        session = self.sessions.pop(client)
        logger.info("%s: %d sent, %d received", client, *self.counts(session))
        session.close()

    @staticmethod
    def counts(session: Session) -> tuple[int, int]:
        return session.upstream.counts.sent, session.upstream.counts.received

    async def cleanup(self) -> None:
        for client in list(self.sessions):
            self.forget(client)


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("Forwards datagrams.")
    parser.add_argument("upstream", nargs="?", default="9.9.9.9:53", metavar="IP:PORT")
    parser.add_argument("--listen", default="127.0.0.1:6054", metavar="ADDRESS")
    parser.add_argument("--idle-timeout", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--max-sessions", type=int, default=1000, metavar="NUMBER")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    upstream = parse_socket_address(args.upstream)
    if not isinstance(upstream, InetAddress):
        parser.error(f"{args.upstream} is no address for datagrams")
    server = Server(Opt.from_namespace(args))
    proxy = UdpProxy(upstream, args.idle_timeout, args.max_sessions)
    service = DatagramService("udp proxy", proxy)
    # With several workers any of them may read a datagram, and the sessions are in one.
    service.placement = Placement.ONE_WORKER
    service.add_udp(args.listen)
    server.add_service(service)
    server.run_forever()


if __name__ == "__main__":
    main()
