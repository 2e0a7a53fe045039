"""Stapled OCSP responses."""

from __future__ import annotations

import datetime as dt
import logging
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from OpenSSL import SSL

from pingora_core.listeners.tls import CertificateStore, TlsSettings
from pingora_core.listeners.tls.ocsp import OcspResponse
from pingora_error import TLS_CONFIG_ERROR, Error
from tests.support.nginx import require_program
from tests.support.waiting import eventually
from tests.unit.pingora_core.listeners.tls.rig import (
    connect_pyopenssl,
    listening,
    pair_of,
    run_program,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.certificates import CertificateAuthority, IssuedCertificate

pytestmark = pytest.mark.usefixtures("no_leaks")

_DAY = dt.timedelta(days=1)


def response_for(
    authority: CertificateAuthority,
    issued: IssuedCertificate,
    status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD,
    *,
    expired: bool = False,
    forever: bool = False,
) -> bytes:
    now = dt.datetime.now(dt.UTC)
    revoked = status is ocsp.OCSPCertStatus.REVOKED
    builder = ocsp.OCSPResponseBuilder().add_response(
        cert=issued.certificate,
        issuer=authority.certificate,
        algorithm=hashes.SHA256(),
        cert_status=status,
        this_update=now - 3 * _DAY,
        next_update=None if forever else now - _DAY if expired else now + _DAY,
        revocation_time=now - 2 * _DAY if revoked else None,
        revocation_reason=None,
    )
    builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, authority.certificate)
    return builder.sign(authority._key, hashes.SHA256()).public_bytes(Encoding.DER)


async def stapled(port: int) -> bytes:
    """Connect as a client that asks for a response, and return it."""
    responses: list[bytes] = []

    def note(connection: SSL.Connection, response: bytes, data: object) -> bool:
        responses.append(response)
        return True

    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_ocsp_client_callback(note)
    async with connect_pyopenssl(port, context, "a.example", ask_ocsp=True) as client:
        client.write(b"x")
        assert await client.read(5.0) == b"x"
    return responses[0]


async def test_a_response_is_stapled_and_read_again_when_it_changes(
    authority: CertificateAuthority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Clients that ask for it get the newest one; a bad one is refused."""
    caplog.set_level(logging.INFO)
    issued = authority.issue("a.example")
    path = tmp_path / "ocsp.der"
    first = response_for(authority, issued)
    path.write_bytes(first)
    settings = TlsSettings.intermediate(issued.chain_path, issued.key_path, ocsp_path=path)
    settings.reload_interval = 0.02
    async with listening(settings) as listener:
        assert await stapled(listener.port) == first
        second = response_for(authority, issued, forever=True)
        path.write_bytes(second)
        await eventually(lambda: "reloaded" in caplog.text)
        assert await stapled(listener.port) == second
        path.write_bytes(response_for(authority, issued, ocsp.OCSPCertStatus.REVOKED))
        await eventually(lambda: "it says REVOKED of" in caplog.text)
        assert await stapled(listener.port) == second


async def test_a_renewed_certificate_sheds_the_old_response(
    authority: CertificateAuthority, tmp_path: Path
) -> None:
    """A response about another certificate would break every client that checks it."""
    issued = authority.issue("a.example")
    path = tmp_path / "ocsp.der"
    path.write_bytes(response_for(authority, issued))
    settings = TlsSettings.intermediate(issued.chain_path, issued.key_path, ocsp_path=path)
    settings.reload_interval = None
    (place,) = settings.certificates
    async with listening(settings) as listener:
        settings.certificates.replace(place, pair_of(authority.issue("a.example")))

        assert await stapled(listener.port) == b""


async def test_without_a_response_clients_are_served_all_the_same(
    authority: CertificateAuthority,
) -> None:
    """Asking for one is no demand."""
    issued = authority.issue("a.example")
    settings = TlsSettings.intermediate(issued.chain_path, issued.key_path)
    async with listening(settings) as listener:
        assert await stapled(listener.port) == b""


async def test_openssl_reads_the_response(authority: CertificateAuthority) -> None:
    """As an independent client."""
    openssl = require_program("openssl")
    issued = authority.issue("a.example")
    store = CertificateStore()
    response = response_for(authority, issued)
    store.add(pair_of(issued), default=True, ocsp_response=response)
    async with listening(TlsSettings(certificates=store)) as listener:
        _, output = await run_program(
            openssl, "s_client", "-connect", listener.address, "-status", "-servername", "a.example"
        )
    assert "OCSP Response Status: successful" in output
    assert "Cert Status: good" in output


def test_a_response_out_of_date_is_not_sent() -> None:
    """Clients would take it for an attack."""
    response = OcspResponse(b"der", 100.0)

    assert response.current(99.0) == b"der"
    assert response.current(100.0) == b""


def test_bad_responses_are_refused_at_the_start(
    authority: CertificateAuthority, tmp_path: Path
) -> None:
    """With the file and the reason."""
    issued, other = authority.issue("a.example"), authority.issue("a.example")
    path = tmp_path / "ocsp.der"
    unsuccessful = ocsp.OCSPResponseBuilder.build_unsuccessful(
        ocsp.OCSPResponseStatus.TRY_LATER
    ).public_bytes(Encoding.DER)
    for content, reason in (
        (b"nothing", "it cannot be read"),
        (unsuccessful, "the responder has answered TRY_LATER"),
        (response_for(authority, other), "it is not about"),
        (response_for(authority, issued, ocsp.OCSPCertStatus.REVOKED), "it says REVOKED of"),
        (response_for(authority, issued, expired=True), "it was good until 20"),
    ):
        path.write_bytes(content)
        store = CertificateStore()
        with pytest.raises(Error, match=reason) as caught:
            store.add_files(issued.chain_path, issued.key_path, ocsp_path=path)
        assert caught.value.etype == TLS_CONFIG_ERROR
        assert str(path) in str(caught.value)
        assert len(store) == 0
    with pytest.raises(Error, match="No such file"):
        TlsSettings.intermediate(
            issued.chain_path, issued.key_path, ocsp_path=tmp_path / "missing.der"
        )
    with pytest.raises(Error, match="it is not about"):
        CertificateStore().add(pair_of(issued), ocsp_response=response_for(authority, other))
