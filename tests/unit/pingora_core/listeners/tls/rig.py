"""TLS listeners on loopback sockets, and clients of the standard library and of pyOpenSSL."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

from pingora_core.listeners import Listeners
from pingora_core.protocols.address import InetAddress
from pingora_core.protocols.l4 import L4Stream
from pingora_core.protocols.tls import CertKey, TlsStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pingora_core.listeners.serving import ServingListeners
    from pingora_core.listeners.tls import TlsSettings
    from pingora_core.protocols.digest import Digest, SslDigest
    from pingora_core.protocols.interfaces import Stream
    from tests.support.certificates import CertificateAuthority, IssuedCertificate

__all__ = [
    "Listening",
    "Talk",
    "ask",
    "client_context",
    "connect_pyopenssl",
    "issue_rsa",
    "listening",
    "pair_of",
    "run_program",
]

ANY = "127.0.0.1:0"


@dataclass
class Listening:
    """A running listener.

    Attributes:
        serving: What runs.
        digests: Of the connections that reached the application, in that order.
    """

    serving: ServingListeners
    digests: list[Digest] = field(default_factory=list)

    @property
    def port(self) -> int:
        address = self.serving.addresses[0]
        assert isinstance(address, InetAddress)
        return address.port

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def all_tls(self) -> list[SslDigest | None]:
        """What the handshakes have agreed on."""
        return [digest.ssl_digest for digest in self.digests]

    @property
    def tls(self) -> SslDigest:
        """What the last connection's handshake has agreed on."""
        digest = self.digests[-1].ssl_digest
        assert digest is not None
        return digest


@asynccontextmanager
async def listening(settings: TlsSettings) -> AsyncIterator[Listening]:
    """Run a TLS listener whose application echoes."""
    listeners = Listeners()
    listeners.add_tls_with_settings(ANY, None, settings)
    digests: list[Digest] = []

    async def echo(stream: Stream) -> None:
        digests.append(stream.digest)
        while data := await stream.read(timeout=30):
            stream.write(data)

    serving = await listeners.serve(echo)
    try:
        yield Listening(serving, digests)
    finally:
        serving.close()
        await serving.cancel()


def client_context(
    authority: CertificateAuthority,
    *,
    identity: IssuedCertificate | None = None,
    alpn: tuple[str, ...] = (),
    maximum: ssl.TLSVersion | None = None,
) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.cert_path)
    if identity is not None:
        context.load_cert_chain(identity.chain_path, identity.key_path)
    if alpn:
        context.set_alpn_protocols(alpn)
    if maximum is not None:
        context.maximum_version = maximum
    return context


@dataclass(frozen=True)
class Talk:
    """What a client of the standard library has seen.

    Attributes:
        serial: Serial number of the server's certificate.
        version: Of TLS.
        cipher: Name of the suite.
        alpn: What was negotiated.
    """

    serial: int
    version: str | None
    cipher: str
    alpn: str | None


async def ask(port: int, context: ssl.SSLContext, server_name: str = "a.example") -> Talk:
    """Connect, have a line echoed, and close."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname=server_name
    )
    try:
        writer.write(b"ping\n")
        assert await reader.readline() == b"ping\n"
        tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
        certificate = tls.getpeercert()
        cipher = tls.cipher()
        assert certificate is not None
        assert cipher is not None
        serial = int(str(certificate["serialNumber"]), 16)
        return Talk(serial, tls.version(), cipher[0], tls.selected_alpn_protocol())
    finally:
        writer.close()
        # The listener may have been faster.
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


@asynccontextmanager
async def connect_pyopenssl(
    port: int,
    context: SSL.Context,
    server_name: str | None,
    session: SSL.Session | None = None,
    *,
    ask_ocsp: bool = False,
) -> AsyncIterator[TlsStream]:
    """Connect as a client whose OpenSSL connection can be looked into."""
    loop = asyncio.get_running_loop()
    _, stream = await loop.create_connection(lambda: L4Stream(loop), "127.0.0.1", port)
    connection = SSL.Connection(context, None)
    connection.set_connect_state()
    if server_name is not None:
        connection.set_tlsext_host_name(server_name.encode())
    if session is not None:
        connection.set_session(session)
    if ask_ocsp:
        connection.request_ocsp()
    tls = TlsStream(stream, connection)
    try:
        await tls.handshake(5.0)
        yield tls
    finally:
        # In order: a reset would destroy an alert.
        stream.close(discard_input=True)
        await stream.wait_closed()
        tls.abort()


def issue_rsa(authority: CertificateAuthority, *names: str) -> CertKey:
    """Issue a server certificate with an RSA key."""
    key = rsa.generate_private_key(65537, 2048)
    now = dt.datetime.now(dt.UTC)
    day = dt.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.SubjectAlternativeName(list(map(x509.DNSName, names))), critical=False)
        .add_extension(authority.key_identifier(), critical=False)
        .sign(authority._key, hashes.SHA256())
    )
    return CertKey([certificate], key)


def pair_of(certificate: IssuedCertificate) -> CertKey:
    """The certificate with its chain and key as the listeners hold it."""
    return CertKey.from_pem(certificate.chain_pem, certificate.key_pem)


async def run_program(*arguments: str | Path, stdin: bytes = b"") -> tuple[int, str]:
    """Run a program to its end, and return its exit code and all it has written."""
    process = await asyncio.create_subprocess_exec(
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(20):
        output, _ = await process.communicate(stdin)
    assert process.returncode is not None
    return process.returncode, output.decode(errors="replace")
