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
    server.add_service(echo)
    server.add_service(hello)
    peer = HttpPeer("127.0.0.1:443", tls=True, sni="one.test")
    peer.options.connection_timeout = 0.5
    assert peer.is_tls
    assert peer.reuse_key != HttpPeer("127.0.0.1:443").reuse_key


if __name__ == "__main__":
    main()
