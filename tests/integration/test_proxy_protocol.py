"""The PROXY protocol with nginx and HAProxy, which share no code with us, on either side."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from pingora_core.listeners import ProxyProtocolSettings
from pingora_core.modules import ForwardedBuilder
from pingora_core.protocols.proxy_protocol import ProxyHeader, TlvType
from pingora_core.protocols.tls import CaBundle
from pingora_core.upstreams import HttpPeer, PeerOptions
from tests.support.certificates import CertificateAuthority
from tests.support.client import RawClient
from tests.support.haproxy import HAProxy
from tests.support.nginx import Nginx
from tests.support.origin import Origin
from tests.support.origin_routes import rig
from tests.support.proxy import RigProxy, RunningProxy
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from pingora_core.modules import HttpModules
    from pingora_proxy import Session
    from tests.support.proxy import RigContext, Upstream

TRUSTED = ("127.0.0.0/8",)

_SEES = (
    "$proxy_protocol_addr:$proxy_protocol_port"
    " $proxy_protocol_server_addr:$proxy_protocol_server_port"
    " $connection $http_x_forwarded_for"
)
_NGINX = f"""
    server {{
        listen 127.0.0.1:$port$ proxy_protocol;
        listen 127.0.0.1:$tls$ ssl proxy_protocol;
        ssl_certificate $directory$/cert.pem;
        ssl_certificate_key $directory$/key.pem;
        location / {{ return 200 "{_SEES}"; }}
    }}
"""
_RECEIVER = """
frontend receiver
    bind 127.0.0.1:$port$ accept-proxy
    http-request return status 200 content-type text/plain lf-string \
"%[src]:%[src_port] %[dst]:%[dst_port] %[fc_pp_authority] %[fc_pp_unique_id]"
"""
_SENDER = """
frontend sender
    mode %(mode)s
    bind 127.0.0.1:$port$ %(bind)s
    default_backend behind
backend behind
    mode %(mode)s
    server proxy %(address)s %(options)s
"""


class Proxy(RigProxy):
    """The rig's proxy with ``X-Forwarded-*``, which keeps what it was told about its clients.

    Attributes:
        headers: Header of the connection of each request.
    """

    def __init__(self, upstream: Upstream) -> None:
        super().__init__(upstream)
        self.headers: list[ProxyHeader | None] = []

    def init_downstream_modules(self, modules: HttpModules) -> None:
        modules.add_module(ForwardedBuilder())

    async def request_filter(self, session: Session, ctx: RigContext) -> bool:
        self.headers.append(session.digest.proxy_protocol)
        return False


@asynccontextmanager
async def accepting(app: Proxy) -> AsyncIterator[RunningProxy[RigContext]]:
    """Run a proxy that is told by loopback who its clients are."""
    running = RunningProxy(app, listen=())
    running.service.add_tcp("127.0.0.1:0", proxy_protocol=ProxyProtocolSettings(TRUSTED))
    async with running:
        yield running


def announcing(
    address: str, *, version: int = 2, ca: CaBundle | None = None
) -> Callable[[Session], HttpPeer]:
    """Make what makes peers that are told who the client is."""

    def make(session: Session) -> HttpPeer:
        header = ProxyHeader.from_digest(session.digest, version=version, checksum=version == 2)
        options = PeerOptions(send_proxy_protocol=header, ca=ca)
        return HttpPeer(address, tls=ca is not None, sni="origin.example", options=options)

    return make


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
async def nginx(tmp_path: Path, authority: CertificateAuthority) -> AsyncIterator[Nginx]:
    """An nginx that reads the PROXY protocol, in clear and ahead of TLS, and says what it saw."""
    directory = tmp_path / "nginx"
    directory.mkdir()
    issued = authority.issue("origin.example")
    (directory / "cert.pem").write_bytes(issued.cert_pem)
    (directory / "key.pem").write_bytes(issued.key_pem)
    async with Nginx(directory, _NGINX, ports=("port", "tls")) as running:
        yield running


async def seen(client: RawClient) -> list[str]:
    """Ask the origin what it saw: client, server, connection, X-Forwarded-For."""
    await client.send_request()
    response = await client.read_response()
    assert response.status == 200
    return response.body.decode().split(" ")


def sender(address: str, options: str, *, mode: str = "http", bind: str = "") -> str:
    """Configure an HAProxy that announces its clients."""
    return _SENDER % {"address": address, "options": options, "mode": mode, "bind": bind}


def _text(address: tuple[str, int]) -> str:
    return f"{address[0]}:{address[1]}"


@pytest.mark.parametrize("version", [1, 2])
async def test_nginx_is_told_who_the_client_is(nginx: Nginx, version: int) -> None:
    """Each client has connections of its own, which its later requests use again."""
    app = Proxy(announcing(nginx.address, version=version))
    async with RunningProxy(app) as proxy:
        async with await proxy.connect() as one, await proxy.connect() as two:
            answers = [await seen(client) for client in (one, two, one, two)]
            addresses = [_text(client.local_address) for client in (one, two)]

        assert [answer[0] for answer in answers] == addresses * 2
        assert {answer[1] for answer in answers} == {proxy.address}
        connections = [answer[2] for answer in answers]
        assert connections[0] == connections[2] != connections[1] == connections[3]


async def test_nginx_is_told_ahead_of_tls(nginx: Nginx, authority: CertificateAuthority) -> None:
    """The header goes in clear, the handshake follows."""
    ca = CaBundle.from_file(authority.cert_path)
    app = Proxy(announcing(f"127.0.0.1:{nginx.ports['tls']}", ca=ca))
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        answer = await seen(client)

        assert answer[0] == _text(client.local_address)


@pytest.mark.parametrize("options", ["send-proxy", "send-proxy-v2 proxy-v2-options crc32c"])
async def test_the_clients_address_survives_a_chain(
    tmp_path: Path, nginx: Nginx, options: str
) -> None:
    """Client, HAProxy, this proxy, nginx: the last one knows the first one's address."""
    app = Proxy(announcing(nginx.address))
    async with accepting(app) as proxy:
        sections = sender(proxy.address, options)
        async with (
            HAProxy(tmp_path / "haproxy", sections, ports=("port",)) as haproxy,
            await RawClient.connect(haproxy.address("port")) as client,
        ):
            answer = await seen(client)

            host, port = client.local_address
            assert answer[0] == f"{host}:{port}"
            assert answer[1] == haproxy.address("port")
            assert answer[3] == host


@pytest.mark.parametrize("options", ["send-proxy", "send-proxy-v2"])
async def test_the_header_comes_before_tls(
    tmp_path: Path, nginx: Nginx, authority: CertificateAuthority, options: str
) -> None:
    """HAProxy passes TLS through, behind its header; the handshake is ours."""
    issued = authority.issue("front.example")
    tls = ssl.create_default_context(cafile=str(authority.cert_path))
    app = Proxy(announcing(nginx.address))
    running = RunningProxy(app, listen=())
    running.service.add_tls(
        "127.0.0.1:0",
        issued.chain_path,
        issued.key_path,
        proxy_protocol=ProxyProtocolSettings(TRUSTED),
    )
    async with running as proxy:
        sections = sender(proxy.address, options, mode="tcp")
        async with (
            HAProxy(tmp_path / "haproxy", sections, ports=("port",)) as haproxy,
            await RawClient.connect(
                haproxy.address("port"), tls=tls, server_hostname="front.example"
            ) as client,
        ):
            answer = await seen(client)

            assert answer[0] == _text(client.local_address)
            assert answer[1] == haproxy.address("port")
            header = app.headers[0]
            assert header is not None
            assert header.version == (1 if options == "send-proxy" else 2)


async def test_haproxy_is_told_who_the_client_is(tmp_path: Path) -> None:
    """HAProxy reads our header, checksum, authority and unique id included."""
    tlvs = ((TlvType.AUTHORITY, b"one.example"), (TlvType.UNIQUE_ID, b"id-7"))
    async with HAProxy(tmp_path / "haproxy", _RECEIVER, ports=("port",)) as haproxy:

        def peer(session: Session) -> HttpPeer:
            header = ProxyHeader.from_digest(session.digest, tlvs=tlvs, checksum=True)
            options = PeerOptions(send_proxy_protocol=header)
            return HttpPeer(haproxy.address("port"), options=options)

        async with RunningProxy(Proxy(peer)) as proxy, await proxy.connect() as client:
            answer = await seen(client)

            assert answer == [_text(client.local_address), proxy.address, "one.example", "id-7"]


async def test_what_haproxy_knows_of_the_clients_tls(
    tmp_path: Path, authority: CertificateAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    """HAProxy ends TLS and tells about it; its health checks are its own, and no news."""
    issued = authority.issue("front.example")
    presented = authority.issue("client.example", client=True)
    pem = tmp_path / "front.pem"
    pem.write_bytes(issued.cert_pem + issued.key_pem)
    tls = ssl.create_default_context(cafile=str(authority.cert_path))
    tls.load_cert_chain(presented.chain_path, presented.key_path)
    tls.set_alpn_protocols(["http/1.1"])
    async with Origin(rig) as origin, accepting(Proxy(origin)) as proxy:
        sections = sender(
            proxy.address,
            "check check-send-proxy inter 20 send-proxy-v2"
            " proxy-v2-options ssl,cert-cn,ssl-cipher,authority,crc32c",
            bind=f"ssl crt {pem} ca-file {authority.cert_path} verify required alpn http/1.1",
        )
        async with (
            HAProxy(tmp_path / "haproxy", sections, ports=("port",)) as haproxy,
            await RawClient.connect(
                haproxy.address("port"), tls=tls, server_hostname="front.example"
            ) as client,
        ):
            await client.send_request()
            response = await client.read_response()
            # Some checks: they connect, announce themselves, and go.
            await asyncio.sleep(0.05)

        assert response.status == 200
        app = proxy.app
        assert isinstance(app, Proxy)
        header = app.headers[0]
        assert header is not None
        assert header.checksum
        assert header.authority == "front.example"
        assert header.alpn == b"http/1.1"
        assert header.ssl is not None
        assert header.ssl.is_verified
        assert header.ssl.common_name == "client.example"
        assert header.ssl.version == "TLSv1.3"
        assert header.ssl.cipher is not None
        await eventually(lambda: len(app.endings) == 1)
    assert [record.getMessage() for record in caplog.records if record.levelno >= 30] == []
