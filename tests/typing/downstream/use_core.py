"""A program that needs pingora-core: a TCP service and an HTTP service, without a proxy."""

from __future__ import annotations

from pingora_core import (
    HttpPeer,
    HttpServer,
    Response,
    ServeHttp,
    Server,
    ServerApp,
    ServerConf,
    ServerSession,
    Service,
    ShutdownWatch,
    Stream,
)
from pingora_core.listeners import ProxyProtocolSettings
from pingora_core.protocols.proxy_protocol import ProxyHeader, TlvType


class Echo(ServerApp):
    """Sends back what comes in."""

    async def process_new(self, stream: Stream, shutdown: ShutdownWatch) -> Stream | None:
        """Echo until the client is done."""
        while not shutdown.is_shutting_down:
            data: bytes = await stream.read(timeout=60)
            if not data:
                break
            stream.write(data)
            await stream.drain()
        stream.close()
        return None


class Hello(ServeHttp):
    """Greets."""

    async def response(self, session: ServerSession) -> Response:
        """Name the path."""
        return Response(200, f"hello {session.request.path}\n".encode())


def main() -> None:
    """Put the services together; nothing listens before ``run``."""
    server = Server(conf=ServerConf())
    echo = Service("echo", Echo())
    echo.add_tcp("127.0.0.1:0")
    hello = Service("hello", HttpServer(Hello()))
    hello.add_tcp("[::1]:0")
    balancers = ProxyProtocolSettings(["10.0.0.0/8"], mode="optional", timeout=3)
    hello.add_tcp("127.0.0.1:0", proxy_protocol=balancers)
    server.add_service(echo)
    server.add_service(hello)
    peer = HttpPeer("127.0.0.1:443", tls=True, sni="one.test")
    peer.options.connection_timeout = 0.5
    assert peer.is_tls
    header = ProxyHeader(tlvs=((TlvType.AUTHORITY, b"one.test"),))
    peer.options.send_proxy_protocol = header
    authority: str | None = header.authority
    assert authority == "one.test"
    assert peer.reuse_key != HttpPeer("127.0.0.1:443").reuse_key


if __name__ == "__main__":
    main()
