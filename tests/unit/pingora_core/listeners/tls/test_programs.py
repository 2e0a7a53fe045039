"""Independent clients: the openssl program and curl."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pingora_core.listeners.tls import TlsSettings
from tests.support.nginx import require_program
from tests.support.waiting import eventually
from tests.unit.pingora_core.listeners.tls.rig import listening, run_program

if TYPE_CHECKING:
    from tests.support.certificates import CertificateAuthority, IssuedCertificate

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture
def certificate(authority: CertificateAuthority) -> IssuedCertificate:
    return authority.intermediate().issue("a.example")


@pytest.fixture
def settings(certificate: IssuedCertificate) -> TlsSettings:
    return TlsSettings.intermediate(certificate.chain_path, certificate.key_path)


async def s_client(address: str, *arguments: str, stdin: bytes = b"Q\n") -> tuple[int, str]:
    openssl = require_program("openssl")
    return await run_program(openssl, "s_client", "-connect", address, *arguments, stdin=stdin)


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_openssl_verifies_the_chain(
    authority: CertificateAuthority, settings: TlsSettings, version: str
) -> None:
    """Name, chain, protocol and compression as they should be."""
    settings.enable_h2()
    async with listening(settings) as listener:
        code, output = await s_client(
            listener.address,
            *("-servername", "a.example", "-verify_hostname", "a.example"),
            *("-CAfile", str(authority.cert_path), "-alpn", "h2,http/1.1", version),
        )

    assert code == 0
    assert "Verify return code: 0 (ok)" in output
    assert "ALPN protocol: h2" in output
    assert "Compression: NONE" in output
    assert " 1 s:CN = Test Intermediate" in output.replace("s:O = Test Authority, CN", "s:CN")


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1", "-ssl3"])
async def test_old_versions_are_refused(settings: TlsSettings, version: str) -> None:
    """Whatever the client would allow itself."""
    async with listening(settings) as listener:
        code, output = await s_client(
            listener.address, version, "-cipher", "ALL:@SECLEVEL=0", "-servername", "a.example"
        )

        assert code != 0
        assert "Cipher is (NONE)" in output or "nknown option" in output
        assert not listener.digests


@pytest.mark.parametrize("cipher", ["AES128-SHA", "ECDHE-ECDSA-AES128-SHA", "ALL:!ECDHE"])
async def test_weak_ciphers_are_refused(settings: TlsSettings, cipher: str) -> None:
    """No key exchange without forward secrecy, no CBC."""
    async with listening(settings) as listener:
        code, output = await s_client(listener.address, "-tls1_2", "-cipher", cipher)

        assert code != 0
        assert "handshake failure" in output


async def test_renegotiation_is_refused(
    settings: TlsSettings, caplog: pytest.LogCaptureFixture
) -> None:
    """A TLS 1.2 client that asks for another handshake within the connection gets none."""
    async with listening(settings) as listener:
        _, output = await s_client(listener.address, "-tls1_2", stdin=b"R\nhello\n")
        await eventually(lambda: listener.serving.connections == 0)

    assert "RENEGOTIATING" in output
    assert "no renegotiation" in output


async def test_sessions_are_resumed(settings: TlsSettings) -> None:
    """openssl itself says so, five times."""
    for version in ("-tls1_2", "-tls1_3"):
        async with listening(settings) as listener:
            _, output = await s_client(listener.address, version, "-reconnect", stdin=b"")

        assert output.count("Reused, TLSv1.2") == (5 if version == "-tls1_2" else 0)


async def test_curl_in_clear_is_told(settings: TlsSettings) -> None:
    """An http:// address with the port of https://."""
    curl = require_program("curl")
    async with listening(settings) as listener:
        code, output = await run_program(
            curl, "--silent", "--write-out", "%{http_code}", f"http://{listener.address}/"
        )

    assert (code, output) == (0, "The plain HTTP request was sent to HTTPS port\n400")
