"""The SNI router passes TLS through: clients verify the upstreams' own certificates."""

from __future__ import annotations

import asyncio
import signal
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support.certificates import CertificateAuthority
from tests.support.nginx import require_program
from tests.support.process import ROOT, ServerProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MIB = 1 << 20


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("certificates"))


@asynccontextmanager
async def origin(authority: CertificateAuthority, *names: str) -> AsyncIterator[str]:
    """Serve TLS with a certificate for some names; the answer tells the first of them."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = MIB if b"GET /large " in head else 0
            body = names[0].encode() + bytes(length)
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: ")
            writer.write(b"%d\r\n\r\n" % len(body) + body)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    context = authority.issue(*names).server_context()
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


@asynccontextmanager
async def router(authority: CertificateAuthority, *more: str) -> AsyncIterator[ServerProcess]:
    """Run the example before two origins; an argument ``--default`` gets the first's address."""
    async with (
        origin(authority, "one.test") as one,
        origin(authority, "two.test", "*.two.test") as two,
        ServerProcess(
            str(ROOT / "examples" / "sni_router.py"),
            *("--listen", "127.0.0.1:0"),
            *("--route", f"One.test={one}", "--route", f"two.test={two}"),
            *("--route", f"*.two.test={two}"),
            *(argument.replace("{one}", one) for argument in more),
        ) as server,
    ):
        yield server


async def fetch(authority: CertificateAuthority, port: int, name: str, target: str = "/") -> bytes:
    """Ask with a client that verifies the certificate of the name."""
    context = ssl.create_default_context(cafile=authority.cert_path)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname=name
    )
    try:
        writer.write(f"GET {target} HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
        response = await asyncio.wait_for(reader.read(), 30)
    finally:
        writer.close()
        await writer.wait_closed()
    return response.partition(b"\r\n\r\n")[2]


async def run(*command: str) -> tuple[int, str]:
    """Run a program to its end; return its exit code and what it wrote to both outputs."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    return process.returncode, output.decode(errors="replace")


async def stopped(server: ServerProcess) -> list[str]:
    """Stop the router; return its log."""
    server.send(signal.SIGTERM)
    assert await server.wait() == 0
    return server.lines


async def test_names_lead_to_their_origins(authority: CertificateAuthority) -> None:
    """Each name is answered by its origin, whose certificate the client verifies."""
    async with router(authority) as server:
        _, port = await server.running()

        names = ("one.test", "two.test", "a.two.test", "ONE.test")
        bodies = [await fetch(authority, port, name) for name in names]
        log = await stopped(server)

    assert bodies == [b"one.test", b"two.test", b"two.test", b"one.test"]
    assert sum("name one.test, client t13d" in line for line in log) == 2
    assert sum("name a.two.test, client t13d" in line for line in log) == 1


async def test_many_at_once(authority: CertificateAuthority) -> None:
    """Large answers to several clients at the same time arrive whole."""
    async with router(authority) as server:
        _, port = await server.running()
        names = ["one.test", "b.two.test"] * 8
        bodies = await asyncio.gather(*(fetch(authority, port, name, "/large") for name in names))

    expected = {"one.test": b"one.test", "b.two.test": b"two.test"}
    assert bodies == [expected[name] + bytes(MIB) for name in names]


@pytest.mark.parametrize("name", ["three.test", "a.b.two.test", "x.one.test"])
async def test_unknown_names_are_refused(authority: CertificateAuthority, name: str) -> None:
    """A name without a route gets the alert that says so; a wildcard stands for one label."""
    async with router(authority) as server:
        _, port = await server.running()

        with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
            await fetch(authority, port, name)
        log = await stopped(server)

    assert any(f"name {name}, client t13" in line and "to refused" in line for line in log)


async def test_default(authority: CertificateAuthority) -> None:
    """With a default, clients of other names and of none reach it and judge for themselves."""
    async with router(authority, "--default", "{one}") as server:
        _, port = await server.running()

        with pytest.raises(ssl.SSLCertVerificationError):
            await fetch(authority, port, "three.test")
        with pytest.raises(ssl.SSLCertVerificationError):
            await fetch(authority, port, "127.0.0.1")


async def test_openssl(authority: CertificateAuthority) -> None:
    """``openssl s_client`` verifies through the router, and reports the alert of a refusal."""
    openssl = require_program("openssl")
    async with router(authority) as server:
        _, port = await server.running()
        connect = (
            *(openssl, "s_client", "-connect", f"127.0.0.1:{port}"),
            *("-CAfile", str(authority.cert_path), "-verify_return_error"),
        )

        good = await run(*connect, "-servername", "two.test", "-verify_hostname", "two.test")
        refused = await run(*connect, "-servername", "three.test")
        nameless = await run(*connect, "-noservername")

    assert good[0] == 0
    assert "Verify return code: 0 (ok)" in good[1]
    assert "CN = two.test" in good[1]
    for code, output in (refused, nameless):
        assert code != 0
        assert "unrecognized name" in output


async def test_curl(authority: CertificateAuthority) -> None:
    """``curl`` gets an answer by each name, with TLS 1.2 too."""
    curl = require_program("curl")
    async with router(authority) as server:
        _, port = await server.running()
        fetches = [
            await run(
                *(curl, "-sS", "--cacert", str(authority.cert_path), *options),
                *("--connect-to", f"{name}:443:127.0.0.1:{port}", f"https://{name}/"),
            )
            for name, options in (
                ("one.test", ()),
                ("c.two.test", ("--tls-max", "1.2")),
                ("three.test", ()),
            )
        ]

    assert fetches[:2] == [(0, "one.test"), (0, "two.test")]
    assert fetches[2][0] == 35


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0-x\r\n", b"\x16\x03\x01\x00\x02\x02\x00"]
)
async def test_something_else_than_tls(authority: CertificateAuthority, data: bytes) -> None:
    """A client that speaks something else is dropped, and the log says what it was."""
    async with router(authority, "--default", "{one}") as server:
        host, port = await server.running()
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(data)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(), 30)
        writer.close()
        log = await stopped(server)

    assert any("name -, client -, to refused" in line for line in log)
    assert any("the client sent" in line for line in log)


@pytest.mark.parametrize("route", ["one.test", "=127.0.0.1:1", "one.test=nowhere"])
async def test_bad_route(route: str) -> None:
    """A route that is none is told in one line, and nothing starts."""
    async with ServerProcess(str(ROOT / "examples" / "sni_router.py"), "--route", route) as server:
        assert await server.wait() == 2

    (line,) = server.lines
    assert f"argument --route: invalid route value: {route!r}" in line


async def test_shutdown_lets_transfers_end(authority: CertificateAuthority) -> None:
    """A connection that is being used when the router is told to stop is used to its end."""
    async with router(authority) as server:
        _, port = await server.running()
        context = ssl.create_default_context(cafile=authority.cert_path)
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname="one.test"
        )
        server.send(signal.SIGTERM)
        await server.line_with("Graceful")
        writer.write(b"GET / HTTP/1.1\r\nHost: one.test\r\n\r\n")
        response = await asyncio.wait_for(reader.read(), 30)
        writer.close()
        await writer.wait_closed()
        assert await server.wait() == 0

    assert response.endswith(b"one.test")
