"""The client against a real nginx, over TLS and in clear."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pingora_core.protocols.http.v1.client import HttpSession as Http1Session
from pingora_core.protocols.http.v2.client import HttpSession as Http2Session
from pingora_core.protocols.tls.alpn import ALPN
from pingora_core.upstreams import HttpPeer, PeerOptions
from tests.support.nginx import Nginx
from tests.support.waiting import eventually
from tests.unit.pingora_core.protocols.http.v2.client_rig import (
    answer_of,
    ask,
    connector,
    request,
    submit,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pingora_core.protocols.http.v2.options import EngineName
    from pingora_core.protocols.tls import CaBundle
    from tests.support.certificates import IssuedCertificate

pytestmark = pytest.mark.usefixtures("no_leaks")

_HTTP = """
    log_format versions '$server_protocol $request_method $uri $status';
    access_log $directory$/versions.log versions;
    keepalive_requests 20;
    large_client_header_buffers 8 16k;
    server {
        listen 127.0.0.1:$tls$ ssl http2;
        listen 127.0.0.1:$clear$ http2;
        ssl_certificate %(certificate)s;
        ssl_certificate_key %(key)s;
        root $directory$;
        client_max_body_size 100k;
        location = /hello { return 200 "hello"; }
        location = /empty { return 204; }
        location /big { }
        location = /upload { proxy_pass http://127.0.0.1:$plain$/; }
    }
    server {
        listen 127.0.0.1:$plain$;
        location / { return 200 "taken"; }
    }
"""


@pytest.fixture(params=["h2", "jh2"])
def engine(request: pytest.FixtureRequest) -> EngineName:
    """Each test runs on both libraries."""
    chosen: EngineName = request.param
    return chosen


@pytest.fixture
async def nginx(tmp_path: Path, server_certificate: IssuedCertificate) -> AsyncIterator[Nginx]:
    """It speaks HTTP/2 on two ports and closes connections after 20 requests."""
    (tmp_path / "big").write_bytes(bytes(range(256)) * 8192)
    http = _HTTP % {
        "certificate": server_certificate.chain_path,
        "key": server_certificate.key_path,
    }
    async with Nginx(tmp_path, http, ports=("tls", "clear", "plain")) as running:
        yield running


def peer_of(nginx: Nginx, ca: CaBundle, *, tls: bool, alpn: ALPN = ALPN.H2) -> HttpPeer:
    """The peer behind one of its ports."""
    address = f"127.0.0.1:{nginx.ports['tls' if tls else 'clear']}"
    return HttpPeer(
        address,
        tls=tls,
        sni="openrusty.org" if tls else "",
        options=PeerOptions(ca=ca, alpn=alpn),
    )


@pytest.mark.parametrize("tls", [True, False])
async def test_exchanges(engine: EngineName, nginx: Nginx, ca: CaBundle, *, tls: bool) -> None:
    """Small and large, with and without bodies, one by one and at once."""
    async with connector(engine) as upstreams:
        peer = peer_of(nginx, ca, tls=tls)
        host = "openrusty.org"
        assert (await ask(upstreams, peer, request("GET", "/hello", host=host))).body == b"hello"
        head = await ask(upstreams, peer, request("HEAD", "/big", host=host))
        assert head.header is not None
        assert (head.header.get("content-length"), head.body) == (str(1 << 21), b"")
        assert (await ask(upstreams, peer, request("GET", "/empty", host=host))).status == 204
        assert (await ask(upstreams, peer, request("GET", "/none", host=host))).status == 404
        answers = await asyncio.gather(
            *(ask(upstreams, peer, request("GET", "/big", host=host)) for _ in range(6))
        )
        assert all(answer.body == bytes(range(256)) * 8192 for answer in answers)
        upload = request("POST", "/upload", ("Content-Length", "50000"), host=host)
        assert (await ask(upstreams, peer, upload, bytes(50_000))).body == b"taken"
        log = nginx.directory / "versions.log"
        await eventually(lambda: "/upload" in log.read_text(encoding="ascii"))
        assert "HTTP/2.0 POST /upload 200" in log.read_text(encoding="ascii")


async def test_a_body_that_is_too_large(engine: EngineName, nginx: Nginx, ca: CaBundle) -> None:
    """The 413 comes before the upload has ended, and counts."""
    async with connector(engine) as upstreams:
        peer = peer_of(nginx, ca, tls=True)
        session, _ = await upstreams.get_http_session(peer)
        header = request("POST", "/upload", ("Content-Length", "200000"), host="openrusty.org")
        session.send_request_header(header)
        session.send_request_body(bytes(1000))
        assert (await answer_of(session)).status == 413
        upstreams.release_http_session(session, peer)


async def test_connections_that_end_after_some_requests(
    engine: EngineName, nginx: Nginx, ca: CaBundle
) -> None:
    """nginx says GOAWAY after 20: no request notices."""
    async with connector(engine) as upstreams:
        peer = peer_of(nginx, ca, tls=False)
        for _ in range(50):
            answer = await ask(upstreams, peer, request("GET", "/hello", host="openrusty.org"))
            assert answer.body == b"hello"
        assert upstreams.http2.stats.connections >= 3


async def test_prefer_http1(nginx: Nginx, ca: CaBundle) -> None:
    """A peer that can do both is spoken to in HTTP/1.1 once it was marked."""
    async with connector() as upstreams:
        peer = peer_of(nginx, ca, tls=True, alpn=ALPN.H2H1)
        first, _ = await upstreams.get_http_session(peer)
        assert isinstance(first, Http2Session)
        upstreams.release_http_session(first, peer)
        upstreams.transport.prefer_h1(peer)
        upstreams.http2.retire(peer)
        session, reused = await upstreams.get_http_session(peer)
        assert isinstance(session, Http1Session)
        assert not reused
        submit(session, request("GET", "/hello", host="openrusty.org"))
        assert (await answer_of(session)).body == b"hello"
        upstreams.release_http_session(session, peer)
        again, reused = await upstreams.get_http_session(peer)
        assert isinstance(again, Http1Session)
        assert reused
        upstreams.release_http_session(again, peer)
