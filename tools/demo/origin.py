"""A TLS origin that names itself and refuses any Host but its own."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    import ssl

    from tests.support.certificates import IssuedCertificate

__all__ = ["Origin"]


class Origin:
    """An HTTPS server on a free loopback port, in threads of its own.

    Attributes:
        name: What it calls itself in its answers.
        address: ``host:port`` it listens on.
    """

    def __init__(self, name: str, host: str, certificate: IssuedCertificate) -> None:
        """Start it.

        Args:
            name: What it calls itself in its answers.
            host: The only Host it answers to.
            certificate: The certificate it shows.
        """
        self.name = name
        self._server = _Server(name, host, certificate.server_context())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.address = f"127.0.0.1:{self._server.server_port}"

    @property
    def requests(self) -> int:
        """How many requests it has answered."""
        return self._server.requests

    def stop(self) -> None:
        """Stop listening and wait until it has stopped."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, name: str, host: str, context: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.name = name
        self.host = host
        self.requests = 0
        self._context = context
        self._count_lock = threading.Lock()

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        connection, address = super().get_request()
        connection.settimeout(30)
        # The handshake is the handler thread's first read: a slow client stops nobody else.
        wrapped = self._context.wrap_socket(
            connection, server_side=True, do_handshake_on_connect=False
        )
        return wrapped, address

    def count(self) -> None:
        with self._count_lock:
            self.requests += 1

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a balancer that closes an idle connection is no error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        origin = self.server
        assert isinstance(origin, _Server)
        origin.count()
        host = self.headers.get("Host", "")
        if host == origin.host:
            self._answer(200, origin.name, f"here is {self.path}")
        else:
            self._answer(403, origin.name, f"nobody here is called {host!r}")

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing: the demonstration tells the story."""

    def _answer(self, status: int, name: str, text: str) -> None:
        body = f"{name}: {text}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Origin", name)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
