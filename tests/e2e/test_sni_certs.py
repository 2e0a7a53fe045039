"""The example with a certificate for each name, as a process."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest

from tests.support.certificates import CertificateAuthority
from tests.support.nginx import require_program
from tests.support.process import ROOT, ServerProcess

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.certificates import IssuedCertificate


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority(tmp_path)


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    directory = tmp_path / "certs"
    directory.mkdir()
    return directory


def put(directory: Path, name: str, issued: IssuedCertificate) -> None:
    """Write a pair the way renewal programs do."""
    for ending, content in (("key", issued.key_pem), ("crt", issued.chain_pem)):
        fresh = directory / "fresh"
        fresh.write_bytes(content)
        fresh.replace(directory / f"{name}.{ending}")


def example(certs: Path) -> ServerProcess:
    path = str(ROOT / "examples" / "sni_certs.py")
    arguments = ("--listen", "127.0.0.1:0", "--certs", str(certs), "--interval", "0.05")
    return ServerProcess(path, *arguments)


async def curl(port: int, name: str, authority: CertificateAuthority) -> tuple[int, str]:
    """Ask as curl does, and return its exit code and the answer."""
    process = await asyncio.create_subprocess_exec(
        require_program("curl"),
        *("--silent", "--show-error", "--cacert", str(authority.cert_path)),
        *("--connect-to", f"::127.0.0.1:{port}", f"https://{name}/"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(20):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_names_are_served_added_renewed_and_removed(
    authority: CertificateAuthority, certs: Path
) -> None:
    """Each with its own certificate, without a restart."""
    put(certs, "one", authority.issue("a.example"))
    async with example(certs) as server:
        _, port = await server.running()
        code, text = await curl(port, "a.example", authority)
        assert code == 0
        assert text.startswith("Here is the tenant a.example, by TLSv1.")
        assert "You are t13d" in text
        # 35: the handshake failed.
        assert (await curl(port, "x.b.example", authority))[0] == 35

        put(certs, "two", authority.intermediate().issue("*.b.example"))
        await server.line_with("reloaded")
        assert (await curl(port, "x.b.example", authority))[0] == 0

        put(certs, "one", authority.issue("c.other"))
        await server.line_with("reloaded")
        assert (await curl(port, "c.other", authority))[0] == 0

        (certs / "two.key").unlink()
        await server.line_with("reloaded")
        assert (await curl(port, "x.b.example", authority))[0] == 35

        server.send(signal.SIGTERM)
        assert await server.wait() == 0


async def test_a_bad_certificate_is_told_at_the_start(
    authority: CertificateAuthority, certs: Path
) -> None:
    """With the file and the reason; nothing is served."""
    put(certs, "one", authority.issue("a.example", expired=True))
    async with example(certs) as server:
        assert await server.wait() == 2
    text = "\n".join(server.lines)
    assert str(certs / "one.crt") in text
    assert "expired on 20" in text
    assert "Traceback" not in text
