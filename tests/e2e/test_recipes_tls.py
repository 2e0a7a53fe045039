"""The recipes of the page about TLS do what it says."""

from __future__ import annotations

import base64
import datetime as dt
import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from pingora_core import HttpPeer, Server, ServerConf, TlsSettings
from pingora_core.protocols.tls import ALPN, CaBundle, CertKey
from pingora_error import Error
from pingora_proxy import http_proxy_service
from pingora_proxy.testing import Client, RunningService, ScriptedOrigin, reply
from tests.support.certificates import CertificateAuthority
from tests.support.recipe_modules import load_recipe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pingora_core import Service
    from pingora_core.listeners.tls import TlsAcceptor
    from pingora_http import RequestHeader
    from pingora_proxy import HttpProxy, Session
    from pingora_proxy.testing import ClientResponse
    from tests.support.certificates import IssuedCertificate

recipe = load_recipe("tls")


class Certs:
    """A directory of certificates, and the authority that has issued them."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "certs"
        self.path.mkdir()
        self.authority = CertificateAuthority(directory)
        self.first = self.put(self.authority.issue("a.example"), "chain.pem", "key.pem")

    def put(self, issued: IssuedCertificate, chain: str, key: str) -> IssuedCertificate:
        shutil.copy(issued.chain_path, self.path / chain)
        shutil.copy(issued.key_path, self.path / key)
        return issued

    @property
    def settings(self) -> TlsSettings:
        return TlsSettings.intermediate(self.path / "chain.pem", self.path / "key.pem")

    async def ask(
        self, address: str, name: str = "a.example", identity: IssuedCertificate | None = None
    ) -> ClientResponse:
        """Ask a server that must have a certificate of the authority for a name."""
        pair = None
        if identity is not None:
            pair = CertKey.from_pem(identity.chain_pem, identity.key_pem)
        peer = HttpPeer(address, tls=True, sni=name, client_cert_key=pair)
        peer.options.ca = CaBundle([self.authority.certificate])
        peer.options.alpn = ALPN.H2H1
        async with Client(peer) as client:
            return await client.get("/", [("Client-Cert", ":Zm9yZ2Vk:")])


@pytest.fixture
def certs(tmp_path: Path) -> Certs:
    return Certs(tmp_path)


class Telling(recipe.Gateway):  # type: ignore[misc, name-defined] # a recipe is no module to mypy
    """Tells the origin what filters know."""

    async def upstream_request_filter(
        self, session: Session, upstream_request: RequestHeader, ctx: None
    ) -> None:
        tls = session.digest.ssl_digest
        assert tls is not None
        alpn = (tls.alpn or b"none").decode()
        facts = f"{tls.version} {tls.group} {alpn} {tls.sni} {tls.extension} {tls.verified}"
        upstream_request.insert_header("X-Facts", facts)


@asynccontextmanager
async def origin() -> AsyncIterator[ScriptedOrigin]:
    async with ScriptedOrigin() as origin:
        origin.on("*", reply(200, b"served"))
        yield origin


@asynccontextmanager
async def listening(
    origin: ScriptedOrigin, settings: TlsSettings | TlsAcceptor
) -> AsyncIterator[str]:
    """Serve with the settings of a recipe, on a port that anybody may have."""
    app = Telling(origin.address)
    service: Service[HttpProxy[None]] = http_proxy_service(ServerConf(), app)
    if isinstance(settings, TlsSettings):
        service.add_tls_with_settings("127.0.0.1:0", None, settings)
    else:
        address = recipe.TcpServerAddress("127.0.0.1:0")
        service.add_endpoint(address, acceptor=settings)
    async with RunningService(service) as running:
        yield running.address


def facts_of(origin: ScriptedOrigin) -> list[str]:
    return (origin.requests[-1].header.get("x-facts") or "").split()


async def test_a_service_listens_with_tls(certs: Certs) -> None:
    """It takes two files; a key of another certificate is told before anything is started."""
    service = recipe.serve(Server(), recipe.Gateway("127.0.0.1:1"), certs.path)
    service.check()
    (endpoint,) = service.endpoints
    assert endpoint.address == recipe.TcpServerAddress("0.0.0.0:443")
    async with origin() as behind, listening(behind, endpoint.acceptor) as address:
        assert (await certs.ask(address)).text == "served"
        assert facts_of(behind)[0] == "TLSv1.3"
    shutil.copy(certs.authority.issue("b.example").key_path, certs.path / "key.pem")
    wrong = recipe.serve(Server(), recipe.Gateway("127.0.0.1:1"), certs.path)
    with pytest.raises(Error, match=r"key\.pem"):
        wrong.check()


async def test_settings_can_be_changed(certs: Certs) -> None:
    """HTTP/2 is chosen by clients that speak it, and the group is one of those given."""
    service = http_proxy_service(ServerConf(), recipe.Gateway("127.0.0.1:1"))
    settings = recipe.change_settings(service, certs.path)
    service.check()
    assert settings.session_timeout == 3600.0
    async with origin() as behind, listening(behind, settings) as address:
        assert (await certs.ask(address)).text == "served"
        _, group, alpn, sni, *_ = facts_of(behind)
        assert (group in settings.groups, alpn, sni) == (True, "h2", "a.example")


async def test_files_are_read_again_at_once(certs: Certs) -> None:
    """New handshakes get the new certificate; one that cannot be used is refused, and told."""
    service = http_proxy_service(ServerConf(), recipe.Gateway("127.0.0.1:1"))
    acceptor = recipe.listen(service, certs.settings)
    service.check()
    async with origin() as behind, listening(behind, acceptor) as address:
        certs.put(certs.authority.issue("b.example"), "chain.pem", "key.pem")
        assert await recipe.read_again(acceptor) == []
        assert (await certs.ask(address, "b.example")).text == "served"
        (certs.path / "chain.pem").write_text("nothing")
        (refused,) = await recipe.read_again(acceptor)
        assert "chain.pem" in refused
        assert (await certs.ask(address, "b.example")).text == "served"


async def test_each_name_has_its_certificate(certs: Certs) -> None:
    """A wildcard stands for one label; what is not known gets the default."""
    issue = certs.authority.issue
    certs.put(issue("a.example"), "a.pem", "a.key")
    certs.put(issue("*.b.example"), "wildcard.pem", "wildcard.key")
    certs.put(issue("fallback.example", "a.c.b.example"), "fallback.pem", "fallback.key")
    settings = recipe.many_names(certs.path)
    async with origin() as behind, listening(behind, settings) as address:
        for name in ("a.example", "any.b.example", "a.c.b.example"):
            assert (await certs.ask(address, name)).text == "served"
            assert facts_of(behind)[3] == name
        with pytest.raises(Error):
            await certs.ask(address, "unknown.example")


async def test_a_callback_chooses_the_certificate(certs: Certs) -> None:
    """What the second one returns is found by all filters; unknown names are refused."""
    row = recipe.Row("Alice", certs.first.chain_pem, certs.first.key_pem)
    recipe.database.rows["a.example"] = row
    async with origin() as behind, listening(behind, recipe.settings) as address:
        assert (await certs.ask(address)).text == "served"
        assert facts_of(behind)[4] == "Alice"
        with pytest.raises(Error, match="unrecognized name"):
            await certs.ask(address, "b.example")


async def test_clients_are_asked_for_certificates(certs: Certs) -> None:
    """The origin learns who it is, whatever a client claims; revoked ones are refused."""
    good, bad = (certs.authority.issue(name, client=True) for name in ("good", "bad"))
    shutil.copy(certs.authority.cert_path, certs.path / "clients-ca.pem")
    (certs.path / "revoked.pem").write_bytes(list_of_revoked(certs.authority, bad))
    settings = certs.settings
    recipe.ask_clients(settings, certs.path)
    async with origin() as behind, listening(behind, settings) as address:
        assert (await certs.ask(address, identity=good)).text == "served"
        der = base64.b64encode(good.certificate.public_bytes(Encoding.DER)).decode()
        assert behind.requests[0].header.get("client-cert") == f":{der}:"
        for identity in (bad, None):
            with pytest.raises(Error):
                await certs.ask(address, identity=identity)
        assert len(behind.requests) == 1


async def test_clients_may_be_served_without_a_certificate(certs: Certs) -> None:
    """It is known of each whether it has shown one, and a claim of its own is removed."""
    shutil.copy(certs.authority.cert_path, certs.path / "clients-ca.pem")
    settings = certs.settings
    recipe.ask_clients_kindly(settings, certs.path)
    async with origin() as behind, listening(behind, settings) as address:
        assert (await certs.ask(address)).text == "served"
        assert facts_of(behind)[5] == "False"
        assert behind.requests[0].header.get("client-cert") is None


async def test_a_response_of_the_authority_is_stapled(certs: Certs) -> None:
    """One that is about another certificate is refused."""
    (certs.path / "ocsp.der").write_bytes(ocsp_response(certs.authority, certs.first))
    settings = recipe.staple(certs.path)
    async with origin() as behind, listening(behind, settings) as address:
        assert (await certs.ask(address)).text == "served"
    other = certs.authority.issue("a.example")
    (certs.path / "ocsp.der").write_bytes(ocsp_response(certs.authority, other))
    with pytest.raises(Error, match=r"ocsp\.der"):
        recipe.staple(certs.path)


def list_of_revoked(authority: CertificateAuthority, revoked: IssuedCertificate) -> bytes:
    now, day = dt.datetime.now(dt.UTC), dt.timedelta(days=1)
    entry = x509.RevokedCertificateBuilder().serial_number(revoked.serial).revocation_date(now)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(now - day)
        .next_update(now + day)
        .add_revoked_certificate(entry.build())
    )
    return builder.sign(authority._key, hashes.SHA256()).public_bytes(Encoding.PEM)


def ocsp_response(authority: CertificateAuthority, issued: IssuedCertificate) -> bytes:
    now, day = dt.datetime.now(dt.UTC), dt.timedelta(days=1)
    builder = (
        ocsp.OCSPResponseBuilder()
        .add_response(
            cert=issued.certificate,
            issuer=authority.certificate,
            algorithm=hashes.SHA256(),
            cert_status=ocsp.OCSPCertStatus.GOOD,
            this_update=now - day,
            next_update=now + day,
            revocation_time=None,
            revocation_reason=None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, authority.certificate)
    )
    return builder.sign(authority._key, hashes.SHA256()).public_bytes(Encoding.DER)
