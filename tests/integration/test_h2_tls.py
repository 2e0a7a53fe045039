"""HTTP/1 and HTTP/2 by ALPN on one TLS port, and what ``h2c`` changes about it."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest

from pingora_core.apps.http_app import HttpServerOptions
from pingora_core.listeners.tls import TlsSettings
from pingora_core.protocols.tls import ALPN, CaBundle
from pingora_core.upstreams import HttpPeer
from tests.support.certificates import CertificateAuthority
from tests.support.client import RawClient
from tests.support.h2client import RawH2Client
from tests.support.nginx import Nginx
from tests.support.proxy import RigProxy, RunningProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.certificates import IssuedCertificate
    from tests.support.origin import Origin
    from tests.support.proxy import RigContext

NGINX = """
server {
    listen 127.0.0.1:$port$ ssl http2;
    ssl_certificate $directory$/server.pem;
    ssl_certificate_key $directory$/server.key;
    location / { return 200 "$server_protocol $host"; }
}
"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def issued(authority: CertificateAuthority) -> IssuedCertificate:
    return authority.issue("h2.example", "127.0.0.1")


def context(authority: CertificateAuthority, *protocols: str) -> ssl.SSLContext:
    tls = ssl.create_default_context(cafile=str(authority.cert_path))
    if protocols:
        tls.set_alpn_protocols(list(protocols))
    return tls


async def running(
    origin: Origin, issued: IssuedCertificate, *, h2c: bool
) -> RunningProxy[RigContext]:
    """Make a proxy whose first address is TLS with HTTP/2, and whose second is clear."""
    proxy = RunningProxy(RigProxy(origin), server_options=HttpServerOptions(h2c=h2c), listen=())
    settings = TlsSettings.intermediate(issued.chain_path, issued.key_path)
    settings.enable_h2()
    proxy.service.add_tls_with_settings("127.0.0.1:0", None, settings)
    proxy.service.add_tcp("127.0.0.2:0")
    return proxy


@pytest.fixture(params=[False, True], ids=["", "h2c"])
async def proxy(
    request: pytest.FixtureRequest, origin: Origin, issued: IssuedCertificate
) -> AsyncIterator[RunningProxy[RigContext]]:
    async with await running(origin, issued, h2c=request.param) as started:
        yield started


async def test_alpn_chooses_http2(
    proxy: RunningProxy[RigContext], authority: CertificateAuthority
) -> None:
    """A client that offers both gets it (test_https_http2, test_h2_tls_with_h2c_enabled)."""
    tls = context(authority, "h2", "http/1.1")
    async with await RawH2Client.connect(
        proxy.address, tls=tls, server_hostname="h2.example"
    ) as client:
        reply = await client.request("POST", "/echo", body=b"x" * 30_000)

    assert (client.alpn, reply.status, len(reply.body)) == ("h2", 200, 30_000)


@pytest.mark.parametrize("offer", [(), ("http/1.1",)], ids=["no ALPN", "http/1.1"])
async def test_alpn_chooses_http1(
    proxy: RunningProxy[RigContext], authority: CertificateAuthority, offer: tuple[str, ...]
) -> None:
    """A client that knows nothing else is served in HTTP/1.1 (test_h1_tls_with_h2c_enabled)."""
    async with await RawClient.connect(
        proxy.address, tls=context(authority, *offer), server_hostname="h2.example"
    ) as client:
        for _ in range(2):
            assert (await client.request("POST", "/echo", body=b"hi")).body == b"hi"


async def test_prior_knowledge_in_clear_beside_tls(
    origin: Origin, issued: IssuedCertificate
) -> None:
    """The clear port goes on to speak both (test_h2c_tcp_still_works)."""
    async with await running(origin, issued, h2c=True) as proxy:
        async with await RawH2Client.connect(proxy.addresses[1]) as client:
            assert (await client.request("POST", "/echo", body=b"hi")).body == b"hi"
        async with await RawClient.connect(proxy.addresses[1]) as old:
            assert (await old.request("POST", "/echo", body=b"hi")).body == b"hi"


@pytest.mark.parametrize(("alpn", "spoken"), [(ALPN.H2H1, b"HTTP/2.0"), (ALPN.H1, b"HTTP/1.1")])
async def test_nginx_upstream(
    alpn: ALPN,
    spoken: bytes,
    issued: IssuedCertificate,
    authority: CertificateAuthority,
    tmp_path: Path,
) -> None:
    """A real nginx says which version it was spoken to in, whatever the client speaks."""
    (tmp_path / "server.pem").write_bytes(issued.chain_path.read_bytes())
    (tmp_path / "server.key").write_bytes(issued.key_path.read_bytes())
    async with Nginx(tmp_path, NGINX) as nginx:

        def peer(_session: object) -> HttpPeer:
            chosen = HttpPeer(nginx.address, tls=True, sni="h2.example")
            chosen.options.alpn = alpn
            chosen.options.ca = CaBundle.from_file(authority.cert_path)
            return chosen

        options = HttpServerOptions(h2c=True)
        async with RunningProxy(RigProxy(peer), server_options=options) as proxy:
            async with await RawH2Client.connect(proxy.address) as client:
                replies = [await client.request() for _ in range(3)]
            async with await RawClient.connect(proxy.address) as old:
                response = await old.request("GET", "/")

    assert [bytes(reply.body) for reply in replies] == [spoken + b" test.example"] * 3
    assert response.body == spoken + b" test.example"
