from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pingora_core.connectors import ConnectProxyError
from pingora_core.upstreams import HttpPeer, PeerOptions, Proxy
from pingora_error import Error, ErrorSource, ErrorType
from tests.unit.pingora_core.connectors.rig import Names, connector, origin

if TYPE_CHECKING:
    from pathlib import Path

    from pingora_core.protocols.tls import CaBundle
    from pingora_http import RequestHeader, ResponseHeader
    from tests.support.certificates import IssuedCertificate

pytestmark = pytest.mark.usefixtures("no_leaks")

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


class HttpProxy:
    """A proxy that answers as told, and then plays the peer.

    Attributes:
        answer: The bytes of its answer.
        requests: The heads it has received.
        tunnel: Where the tunnel leads; None to echo.
    """

    def __init__(self, answer: bytes = ESTABLISHED, tunnel: tuple[str, int] | None = None) -> None:
        self.answer = answer
        self.requests: list[bytes] = []
        self.tunnel = tunnel

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append(await reader.readuntil(b"\r\n\r\n"))
        if not self.answer:
            return
        for byte in self.answer:
            writer.write(bytes([byte]))
        if self.tunnel is None:
            await copy(reader, writer)
            return
        far_reader, far_writer = await asyncio.open_connection(*self.tunnel)
        try:
            await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))
        finally:
            far_writer.close()


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def refused(answer: bytes, options: PeerOptions | None = None) -> Error:
    """Ask a proxy that answers like this, in vain."""
    async with origin(HttpProxy(answer)) as server, connector() as transport:
        peer = HttpPeer("192.0.2.1:80", proxy=Proxy.parse(server.address), options=options)
        with pytest.raises(Error) as caught:
            await transport.new_stream(peer)
    return caught.value


@pytest.mark.parametrize("transport_kind", ["tcp", "unix"])
@pytest.mark.parametrize(
    ("address", "authority"),
    [
        ("192.0.2.1:80", b"192.0.2.1:80"),
        ("[2001:db8::1]:443", b"[2001:db8::1]:443"),
        ("origin.test:8080", b"origin.test:8080"),
    ],
)
async def test_connect_proxy_work(
    tmp_path: Path, transport_kind: str, address: str, authority: bytes
) -> None:
    """The proxy is asked for the peer, by name if it has one, and the tunnel carries bytes."""
    proxy = HttpProxy()
    path = str(tmp_path / "proxy.sock") if transport_kind == "unix" else None
    async with origin(proxy, path=path) as server, connector() as transport:
        hop = Proxy.parse(server.address, headers=(("X-Token", "1"),))
        options = PeerOptions(extra_proxy_headers=(("Proxy-Authorization", "Basic eA=="),))
        stream = await transport.new_stream(HttpPeer(address, proxy=hop, options=options))
        stream.write(b"ping")

        assert await stream.read(5.0) == b"ping"
        head = proxy.requests[0]
        assert head.startswith(b"CONNECT %s HTTP/1.1\r\nHost: %s\r\n" % (authority, authority))
        assert b"\r\nX-Token: 1\r\n" in head
        assert b"\r\nProxy-Authorization: Basic eA==\r\n" in head
        stream.close()
        await stream.wait_closed()


async def test_tls_through_a_proxy(server_certificate: IssuedCertificate, ca: CaBundle) -> None:
    """The peer behind the tunnel is verified, not the proxy."""
    async with origin(tls=server_certificate.server_context()) as far:
        proxy = HttpProxy(tunnel=("127.0.0.1", far.port))
        async with origin(proxy) as near, connector() as transport:
            hop = Proxy.parse(near.address)
            options = PeerOptions(ca=ca)
            peer = HttpPeer("openrusty.org:443", tls=True, proxy=hop, options=options)
            stream = await transport.new_stream(peer)
            stream.write(b"ping")
            assert await stream.read(5.0) == b"ping"
            assert far.names == ["openrusty.org"]

            wrong = HttpPeer("other.example:443", tls=True, proxy=hop, options=options.copy())
            with pytest.raises(Error) as caught:
                await transport.new_stream(wrong)
            assert caught.value.etype is ErrorType.INVALID_CERT
            stream.close()
            await stream.wait_closed()


async def test_a_proxied_connection_is_reused() -> None:
    """For the same peer through the same proxy only."""
    async with origin(HttpProxy()) as server, connector() as transport:
        hop = Proxy.parse(server.address)
        peer = HttpPeer("192.0.2.1:80", proxy=hop)
        stream = await transport.new_stream(peer)
        transport.release_stream(stream, peer.reuse_key())

        assert transport.reused_stream(HttpPeer("192.0.2.2:80", proxy=hop)) is None
        assert transport.reused_stream(HttpPeer("192.0.2.1:80")) is None
        assert transport.reused_stream(HttpPeer("192.0.2.1:80", proxy=hop)) is stream
        stream.close()
        await stream.wait_closed()


async def test_a_proxy_by_name() -> None:
    """The proxy's own name is looked up here."""
    names = Names(**{"proxy.test": ["127.0.0.1"]})
    async with origin(HttpProxy()) as server, connector(resolver=names) as transport:
        hop = Proxy.parse(f"proxy.test:{server.port}")
        stream = await transport.new_stream(HttpPeer("origin.test:80", proxy=hop))

        assert names.asked == ["proxy.test"]
        stream.close()
        await stream.wait_closed()


async def test_connect_proxy_fail() -> None:
    """The answer is there as data, for who wants to look at it."""
    error = await refused(
        b"HTTP/1.1 403 Forbidden\r\nProxy-Status: p; error=http_request_denied\r\n"
        b"Content-Length: 2\r\n\r\nno"
    )

    assert error.etype is ErrorType.CONNECT_PROXY_FAILURE
    assert error.esource is ErrorSource.UPSTREAM
    assert "192.0.2.1:80" in error.context
    cause = error.cause
    assert isinstance(cause, ConnectProxyError)
    assert cause.response is not None
    assert cause.response.status == 403
    assert "http_request_denied" in str(error)


async def test_a_refusal_without_a_reason() -> None:
    """The status line is told."""
    error = await refused(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")

    assert "502 Bad Gateway" in str(error)


@pytest.mark.parametrize("beginning", [b"", b"HTTP/1.1 200 O"])
async def test_connect_proxy_conn_closed(beginning: bytes) -> None:
    """A proxy that hangs up, before or within its answer, is a failure."""

    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(beginning)

    async with origin(leave) as server, connector() as transport:
        peer = HttpPeer("192.0.2.1:80", proxy=Proxy.parse(server.address))
        with pytest.raises(Error, match="closed the connection") as caught:
            await transport.new_stream(peer)

    assert caught.value.etype is ErrorType.CONNECT_PROXY_FAILURE


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\nX: y\n\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 20000,
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    ],
    ids=["nonsense", "bare-lf", "large", "many-fields", "transfer-encoding", "ssh"],
)
async def test_answers_that_are_not_acceptable(answer: bytes) -> None:
    """Malformed, too large, or with a body where the tunnel should begin."""
    error = await refused(answer)

    assert error.etype is ErrorType.CONNECT_PROXY_FAILURE
    assert isinstance(error.cause, ConnectProxyError)


async def test_an_interim_response_is_skipped() -> None:
    """The final one decides."""
    proxy = HttpProxy(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + ESTABLISHED)
    async with origin(proxy) as server, connector() as transport:
        peer = HttpPeer("192.0.2.1:80", proxy=Proxy.parse(server.address))
        stream = await transport.new_stream(peer)

        assert stream.digest.proxy_digest is not None
        assert stream.digest.proxy_digest.response.status == 200
        stream.close()
        await stream.wait_closed()


async def test_bytes_behind_the_answer_belong_to_the_tunnel() -> None:
    """A peer that speaks first is heard; a tolerated Content-Length takes nothing away."""
    proxy = HttpProxy(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
    async with origin(proxy) as server, connector() as transport:
        peer = HttpPeer("192.0.2.1:25", proxy=Proxy.parse(server.address))
        stream = await transport.new_stream(peer)
        assert await stream.peek(5, 5.0) == b"hello"
        stream.close()
        await stream.wait_closed()


async def test_a_silent_proxy() -> None:
    """CONNECT_TIMEDOUT."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with origin(silent) as server, connector() as transport:
        options = PeerOptions(connection_timeout=0.03)
        hop = Proxy.parse(server.address)
        with pytest.raises(Error, match="CONNECT to") as caught:
            await transport.new_stream(HttpPeer("192.0.2.1:80", proxy=hop, options=options))

    assert caught.value.etype is ErrorType.CONNECT_TIMEDOUT
    assert caught.value.esource is ErrorSource.UPSTREAM


async def test_user_data_of_the_exchange() -> None:
    """The hook sees request and response; what it returns is in the digest."""

    def hook(request: RequestHeader, response: ResponseHeader) -> object:
        return request.method, response.status

    async with origin(HttpProxy()) as server, connector() as transport:
        options = PeerOptions(proxy_digest_user_data_hook=hook)
        hop = Proxy.parse(server.address)
        stream = await transport.new_stream(HttpPeer("a.test:80", proxy=hop, options=options))

        assert stream.digest.proxy_digest is not None
        assert stream.digest.proxy_digest.user_data == ("CONNECT", 200)
        stream.close()
        await stream.wait_closed()


async def test_a_malformed_header_is_refused_before_it_is_sent() -> None:
    """A value cannot smuggle a second request to the proxy."""
    proxy = HttpProxy()
    async with origin(proxy) as server, connector() as transport:
        hop = Proxy.parse(server.address, headers=(("X", "a\r\nY: b"),))
        with pytest.raises(Error) as caught:
            await transport.new_stream(HttpPeer("192.0.2.1:80", proxy=hop))

        assert caught.value.etype is ErrorType.INVALID_HTTP_HEADER
        assert proxy.requests == []


async def test_a_unix_peer_behind_a_proxy_is_a_mistake() -> None:
    """CONNECT has no way to say it."""
    async with origin(HttpProxy()) as server, connector() as transport:
        hop = Proxy.parse(server.address)
        with pytest.raises(Error, match="Unix socket") as caught:
            await transport.new_stream(HttpPeer("unix:/x", proxy=hop))

    assert caught.value.etype is ErrorType.CONNECT_PROXY_FAILURE
    assert caught.value.esource is ErrorSource.INTERNAL
