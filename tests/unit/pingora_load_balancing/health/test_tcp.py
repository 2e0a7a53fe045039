"""A TCP check connects, a TLS check does a whole handshake, and both hang up."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest

from pingora_core.connectors import ConnectorOptions
from pingora_core.upstreams import PeerOptions
from pingora_error import ErrorSource, ErrorType
from pingora_load_balancing import Backend
from pingora_load_balancing.health import TcpHealthCheck
from tests.support.ports import free_port
from tests.support.waiting import eventually
from tests.unit.pingora_core.connectors.rig import origin
from tests.unit.pingora_load_balancing.health.rig import Silent, closing, refused

if TYPE_CHECKING:
    from pathlib import Path

    from pingora_core.protocols.tls import CaBundle
    from tests.support.certificates import CertificateAuthority, IssuedCertificate
    from tests.unit.pingora_core.connectors.rig import Origin

pytestmark = pytest.mark.usefixtures("no_leaks")


async def _hung_up(server: Origin, connections: int = 1) -> None:
    """Wait until the server has seen so many connections, and the end of each."""
    await eventually(
        lambda: (
            server.connections == connections
            and all(writer.is_closing() for writer in server.writers)
        )
    )


async def test_tcp_check() -> None:
    """A port that is listened on is well, another one is not."""
    async with origin() as server, closing(TcpHealthCheck()) as check:
        await check.check(Backend(server.address))
        await _hung_up(server)

        error = await refused(check, f"127.0.0.1:{free_port()}")

    assert error.etype is ErrorType.CONNECT_REFUSED
    assert error.esource is ErrorSource.UPSTREAM


async def test_a_server_that_stops_and_comes_back(tmp_path: Path) -> None:
    """Each check finds out anew, also over a Unix socket."""
    path = str(tmp_path / "socket")
    async with closing(TcpHealthCheck()) as check:
        for _ in range(2):
            async with origin(path=path) as server:
                await check.check(Backend(server.address))
                await _hung_up(server)
            error = await refused(check, f"unix:{path}")
            assert error.etype in {ErrorType.CONNECT_ERROR, ErrorType.CONNECT_REFUSED}


async def test_the_port_may_be_another_one() -> None:
    """A backend may answer checks on a port of its own."""
    async with origin() as server, closing(TcpHealthCheck(port_override=server.port)) as check:
        await check.check(Backend("127.0.0.1:1"))
        await check.check(Backend("localhost:1"))
        await _hung_up(server, 2)


async def test_the_host_may_be_another_one() -> None:
    """An agent elsewhere may answer for a backend, a Unix socket included."""
    async with origin() as server:
        overriding = TcpHealthCheck(host_override="127.0.0.1", port_override=server.port)
        async with closing(overriding) as check:
            await check.check(Backend("192.0.2.1:80"))
            await check.check(Backend("unix:/nowhere"))
        await _hung_up(server, 2)


async def test_another_host_without_a_port() -> None:
    """A Unix socket has no port that could be asked for elsewhere: nobody knows how it is."""
    error = await refused(TcpHealthCheck(host_override="::1"), "unix:/nowhere")

    assert error.esource is ErrorSource.INTERNAL
    assert "port_override" in str(error)


async def test_the_port_of_a_unix_socket_is_left_alone(tmp_path: Path) -> None:
    """It has none, so there is nothing to override."""
    async with origin(path=str(tmp_path / "socket")) as server:
        async with closing(TcpHealthCheck(port_override=1)) as check:
            await check.check(Backend(server.address))
        await _hung_up(server)


# ------------------------------------------------------------------------------- TLS


def _tls(ca: CaBundle, sni: str = "", timeout: float = 2.0) -> TcpHealthCheck:
    return TcpHealthCheck(sni, tls=True, options=PeerOptions(ca=ca), timeout=timeout)


async def _serve(certificate: IssuedCertificate, check: TcpHealthCheck) -> Origin:
    async with origin(tls=certificate.server_context()) as server, closing(check):
        await check.check(Backend(server.address))
        await _hung_up(server)
    return server


async def test_tls_check(ca: CaBundle, certificate: IssuedCertificate) -> None:
    """The name is asked for and verified; a name alone makes it a TLS check."""
    server = await _serve(certificate, TcpHealthCheck("one.test", options=PeerOptions(ca=ca)))

    assert server.names == ["one.test"]


async def test_tls_without_a_name(ca: CaBundle, certificate: IssuedCertificate) -> None:
    """Then the address of the backend is what the certificate has to be for."""
    server = await _serve(certificate, _tls(ca))

    assert server.names == [None]


async def test_tls_handshakes_are_whole_ones(ca: CaBundle, certificate: IssuedCertificate) -> None:
    """No session is resumed: a certificate that has changed has to be seen."""
    context = certificate.server_context()
    async with origin(tls=context) as server, closing(_tls(ca, "one.test")) as check:
        for _ in range(3):
            await check.check(Backend(server.address))
        await _hung_up(server, 3)

    assert context.session_stats()["hits"] == 0


@pytest.mark.parametrize("sni", ["two.test", "127.0.0.2"])
async def test_tls_with_a_wrong_name(
    ca: CaBundle, certificate: IssuedCertificate, sni: str
) -> None:
    """A certificate for somebody else does not do."""
    async with origin(tls=certificate.server_context()) as server, closing(_tls(ca, sni)) as check:
        error = await refused(check, server.address)

    assert error.etype is ErrorType.INVALID_CERT


async def test_tls_that_is_not_to_be_trusted(certificate: IssuedCertificate) -> None:
    """Without its authority it is not trusted, unless that was said."""
    context = certificate.server_context()
    async with origin(tls=context) as server:
        async with closing(TcpHealthCheck("one.test")) as check:
            error = await refused(check, server.address)
        trusting = TcpHealthCheck("one.test", options=PeerOptions(verify_cert=False))
        async with closing(trusting) as check:
            await check.check(Backend(server.address))
            await _hung_up(server)

    assert error.etype is ErrorType.INVALID_CERT


async def test_an_authority_in_a_file(
    authority: CertificateAuthority, certificate: IssuedCertificate
) -> None:
    """What holds for a proxy's connections can hold for checks; a bad file blames no backend."""
    options = ConnectorOptions(ca_file=str(authority.cert_path))
    await _serve(certificate, TcpHealthCheck("one.test", connector_options=options))

    options = ConnectorOptions(ca_file="/nowhere")
    error = await refused(TcpHealthCheck("one.test", connector_options=options), "127.0.0.1:1")
    assert error.esource is ErrorSource.INTERNAL


async def test_tls_that_has_expired(authority: CertificateAuthority, ca: CaBundle) -> None:
    """An expired certificate is what such a check is for."""
    context = authority.issue("one.test", expired=True).server_context()
    async with origin(tls=context) as server, closing(_tls(ca, "one.test")) as check:
        error = await refused(check, server.address)

    assert error.etype is ErrorType.INVALID_CERT
    assert "expired" in str(error)


async def test_tls_with_a_client_that_must_have_a_certificate(
    authority: CertificateAuthority, ca: CaBundle, certificate: IssuedCertificate
) -> None:
    """TLS 1.2 tells within the handshake that a certificate is wanted."""
    context = certificate.server_context(client_ca=authority)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with origin(tls=context) as server, closing(_tls(ca, "one.test")) as check:
        error = await refused(check, server.address)

    assert error.etype is ErrorType.TLS_HANDSHAKE_FAILURE


async def test_tls_that_stalls(ca: CaBundle) -> None:
    """The deadline is for all of it."""
    with Silent() as silent:
        async with closing(_tls(ca, "one.test", timeout=0.05)) as check:
            error = await refused(check, silent.address)

    assert error.etype is ErrorType.CONNECT_TIMEDOUT
    assert "within 0.05 s" in str(error)


# ---------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"timeout": 0.0}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"port_override": 0}, "port_override"),
        ({"port_override": 65536}, "port_override"),
    ],
)
def test_numbers_that_make_no_sense(arguments: dict[str, int], message: str) -> None:
    """They are refused at once, not with the first check."""
    with pytest.raises(ValueError, match=message):
        TcpHealthCheck(**arguments)  # type: ignore[arg-type]


def test_a_host_that_is_none() -> None:
    """It is refused at once."""
    with pytest.raises(ValueError, match="no host"):
        TcpHealthCheck(host_override="no host")


async def test_used_again_after_closing() -> None:
    """A service that is started again uses the same check."""
    async with origin() as server, closing(TcpHealthCheck()) as check:
        await check.check(Backend(server.address))
        await check.close()
        await check.check(Backend(server.address))
        await _hung_up(server, 2)
        await check.close()
        await check.close()
