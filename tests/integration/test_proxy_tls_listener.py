"""A proxy that terminates TLS: what filters and origins learn of the client, and mistakes."""

from __future__ import annotations

import asyncio
import base64
import ssl
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from OpenSSL import SSL

from pingora_core.conf import CONFIG_ERROR
from pingora_core.listeners.tls import ClientAuth, TlsAccept, TlsSettings
from pingora_core.modules import ClientCertBuilder
from pingora_error import Error
from tests.support.certificates import CertificateAuthority
from tests.support.client import RawClient
from tests.support.nginx import require_program
from tests.support.proxy import RigProxy, RunningProxy

if TYPE_CHECKING:
    from pathlib import Path

    from pingora_core.modules import HttpModules
    from pingora_core.protocols.tls import TlsStream
    from pingora_http import RequestHeader
    from pingora_proxy import Session
    from tests.support.certificates import IssuedCertificate
    from tests.support.origin import Origin
    from tests.support.proxy import RigContext


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def issued(authority: CertificateAuthority) -> IssuedCertificate:
    return authority.issue("a.example")


class Tenants(TlsAccept):
    """Looks up a tenant once for each connection."""

    async def handshake_complete_callback(self, stream: TlsStream) -> str:
        await asyncio.sleep(0)
        tls = stream.digest.ssl_digest
        assert tls is not None
        return f"{tls.sni} for {tls.common_name}"


class TenantProxy(RigProxy):
    """Tells the origin what the handshake's end has left."""

    def init_downstream_modules(self, modules: HttpModules) -> None:
        super().init_downstream_modules(modules)
        modules.add_module(ClientCertBuilder())

    async def upstream_request_filter(
        self, session: Session, upstream_request: RequestHeader, ctx: RigContext
    ) -> None:
        await super().upstream_request_filter(session, upstream_request, ctx)
        digest = session.digest.ssl_digest
        assert digest is not None
        upstream_request.insert_header("X-Tenant", str(digest.extension))


async def test_the_client_is_known_to_filters_and_origin(
    origin: Origin, authority: CertificateAuthority, issued: IssuedCertificate
) -> None:
    """Value of the callback and certificate of the client arrive, what it forged does not."""
    curl = require_program("curl")
    identity = authority.issue("me.example", client=True, common_name="me")
    settings = TlsSettings.intermediate(issued.chain_path, issued.key_path)
    settings.callbacks = Tenants()
    settings.client_auth = ClientAuth.from_files(authority.cert_path)
    proxy = RunningProxy(TenantProxy(origin), listen=())
    proxy.service.add_tls_with_settings("127.0.0.1:0", None, settings)
    async with proxy:
        process = await asyncio.create_subprocess_exec(
            curl,
            *("--silent", "--show-error", "--fail", "--max-time", "10"),
            *("--cacert", str(authority.cert_path), "--cert", str(identity.chain_path)),
            *("--key", str(identity.key_path), "--connect-to", f"::{proxy.address}"),
            *("--header", "Client-Cert: :Zm9yZ2Vk:", "https://a.example/"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(20):
            output, _ = await process.communicate()
        assert process.returncode == 0, output

    received = origin.requests[0]
    assert received.get("x-tenant") == "a.example for me"
    sent = received.get("client-cert")
    assert sent is not None
    assert x509.load_der_x509_certificate(base64.b64decode(sent.strip(":"))) == identity.certificate


async def test_tls_to_a_plain_port_is_answered_and_logged_once(
    origin: Origin, caplog: pytest.LogCaptureFixture
) -> None:
    """A hello is no request: it gets its 400, which ends the connection."""
    connection = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
    connection.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        connection.do_handshake()
    hello = connection.bio_read(65536)
    app = RigProxy(origin)
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        await client.send(hello)
        response = await client.read_response("GET")
        assert response.status == 400
        await app.ended()
    mentions = [record for record in caplog.records if record.levelname in {"WARNING", "ERROR"}]
    assert len(mentions) <= 1
    assert not origin.requests


async def test_every_mistake_of_a_service_is_told_at_once(
    origin: Origin, authority: CertificateAuthority, issued: IssuedCertificate, tmp_path: Path
) -> None:
    """Addresses, files and settings, before anything is started."""
    service = RunningProxy(RigProxy(origin), listen=()).service
    other = authority.issue("b.example")
    settings = TlsSettings.intermediate(issued.chain_path, issued.key_path)
    settings.groups = ("nonsense",)
    service.add_tls("127.0.0.1:x", issued.chain_path, issued.key_path)
    service.add_tls("127.0.0.1:1", tmp_path / "missing.pem", issued.key_path)
    service.add_tls("127.0.0.1:2", issued.chain_path, other.key_path)
    service.add_tls_with_settings("127.0.0.1:3", None, settings)

    with pytest.raises(Error) as caught:
        service.check()

    assert caught.value.etype == CONFIG_ERROR
    text = caught.value.context
    assert "got '127.0.0.1:x'" in text
    assert str(tmp_path / "missing.pem") in text
    assert "No such file" in text
    assert str(other.key_path) in text
    assert "does not belong to" in text
    assert "127.0.0.1:3" in text
    assert "OpenSSL does not know 'nonsense'" in text


async def test_a_service_with_tls_stops_in_order(
    origin: Origin, authority: CertificateAuthority, issued: IssuedCertificate
) -> None:
    """What looks for renewed files ends with the listener; requests in flight are finished."""
    proxy = RunningProxy(RigProxy(origin), listen=())
    proxy.service.add_tls("127.0.0.1:0", issued.chain_path, issued.key_path)
    async with proxy:
        tls = ssl.create_default_context(cafile=authority.cert_path)
        async with await RawClient.connect(
            proxy.address, tls=tls, server_hostname="a.example"
        ) as client:
            response = await client.request("GET", "/")
            assert response.status == 200
            proxy.begin_shutdown()
            assert await client.is_closed_by_server()
