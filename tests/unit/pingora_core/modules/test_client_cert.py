"""Client-Cert and X-Forwarded-Client-Cert: what is removed, and what is sent."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pingora_core.modules import ClientCertBuilder, HttpModules, forward_client_certificate
from pingora_core.protocols.digest import Digest, SslDigest
from pingora_core.protocols.tls.digest import read_certificate
from pingora_http import RequestHeader
from tests.support.certificates import CertificateAuthority

if TYPE_CHECKING:
    from pathlib import Path

    from pingora_core.protocols.address import SocketAddress

CLAIMS = (
    ("Client-Cert", ":Zm9yZ2Vk:"),
    ("client-cert", ":Zm9yZ2Vk:"),
    ("Client_Cert", ":Zm9yZ2Vk:"),
    ("Client-Cert-Chain", ":Zm9yZ2Vk:"),
    ("X-Forwarded-Client-Cert", "Hash=00"),
    ("X_Forwarded-Client_Cert", "Hash=00"),
)


@pytest.fixture
def certificate(tmp_path: Path) -> x509.Certificate:
    return CertificateAuthority(tmp_path).issue("client", client=True).certificate


def _digest(certificate: x509.Certificate, *, verified: bool = True) -> SslDigest:
    facts = read_certificate(certificate)
    return SslDigest("TLS_AES_128_GCM_SHA256", "TLSv1.3", verified=verified, certificate=facts)


def _forged() -> RequestHeader:
    return RequestHeader("GET", "/", headers=[*CLAIMS, ("Client-Certainty", "stays")])


def test_claims_are_replaced_by_the_certificate(certificate: x509.Certificate) -> None:
    """The origin reads the certificate, whatever the client has sent under that name."""
    request = _forged()

    forward_client_certificate(request, _digest(certificate))

    fields = dict(request)
    assert set(fields) == {"Client-Certainty", "Client-Cert"}
    value = fields["Client-Cert"]
    assert value[0] == value[-1] == ":"
    assert x509.load_der_x509_certificate(base64.b64decode(value[1:-1])) == certificate


def test_envoys_field_carries_digest_and_certificate(certificate: x509.Certificate) -> None:
    """Quoted so that nothing in the certificate can end the value."""
    request = _forged()

    forward_client_certificate(
        request, _digest(certificate), client_cert=False, x_forwarded_client_cert=True
    )

    fields = dict(request)
    assert set(fields) == {"Client-Certainty", "X-Forwarded-Client-Cert"}
    digest, _, pem = fields["X-Forwarded-Client-Cert"].partition(";")
    assert digest.startswith("Hash=")
    assert bytes.fromhex(digest[5:]) == read_certificate(certificate).cert_digest
    quoted = pem.removeprefix('Cert="').removesuffix('"')
    assert '"' not in quoted
    assert unquote(quoted).encode() == certificate.public_bytes(Encoding.PEM)


@pytest.mark.parametrize("case", ["plain", "no certificate", "not verified", "not readable"])
def test_without_a_verified_certificate_claims_are_only_removed(
    case: str, certificate: x509.Certificate
) -> None:
    """Nothing is left that the origin could take for the proxy's word."""
    tls = {
        "plain": None,
        "no certificate": SslDigest("TLS_AES_128_GCM_SHA256", "TLSv1.3"),
        "not verified": _digest(certificate, verified=False),
        "not readable": SslDigest("TLS_AES_128_GCM_SHA256", "TLSv1.3", verified=True),
    }[case]
    request = _forged()

    forward_client_certificate(request, tls, x_forwarded_client_cert=True)

    assert dict(request) == {"Client-Certainty": "stays"}


def test_a_request_without_claims_only_gains(certificate: x509.Certificate) -> None:
    """The usual case."""
    request = RequestHeader("GET", "/", headers=[("Accept", "*/*")])

    forward_client_certificate(request, _digest(certificate))

    assert set(dict(request)) == {"Accept", "Client-Cert"}


class _Client:
    """A client's side without a connection."""

    client_addr: SocketAddress | None = None

    def __init__(self, tls: SslDigest | None) -> None:
        self.req_header = RequestHeader("GET", "/")
        self.digest = Digest(ssl_digest=tls)


async def test_the_module_sets_them_on_each_request(certificate: x509.Certificate) -> None:
    """A service that adds the module needs no code of its own."""
    modules = HttpModules()
    modules.add_module(ClientCertBuilder())
    request = _forged()

    await modules.build_ctx(_Client(_digest(certificate))).request_header_filter(request)

    assert "Client-Cert" in dict(request)


async def test_a_module_without_a_client_only_removes() -> None:
    """Where nothing is known of the client, nothing is claimed of it."""
    request = _forged()

    await ClientCertBuilder().init().request_header_filter(request)

    assert dict(request) == {"Client-Certainty": "stays"}
