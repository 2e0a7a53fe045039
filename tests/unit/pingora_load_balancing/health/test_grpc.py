"""A gRPC check asks the health service that grpcio brings, and others that are none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pingora_core.upstreams import PeerOptions
from pingora_error import Custom, ErrorSource, ErrorType
from pingora_load_balancing import Backend
from pingora_load_balancing.health import GrpcHealthCheck
from tests.support.grpc_server import start_poller
from tests.support.h2origin import StrictH2Origin, answer
from tests.support.origin import Origin
from tests.support.origin_steps import reply
from tests.unit.pingora_load_balancing.health.grpc_health_server import HealthServer
from tests.unit.pingora_load_balancing.health.rig import Silent, closing, refused

if TYPE_CHECKING:
    from pingora_core.protocols.tls import CaBundle
    from tests.support.certificates import CertificateAuthority, IssuedCertificate
    from tests.support.h2origin import H2Handler

# Generous: nothing here is meant to take long, but machines may be busy.
_LIMIT = 20.0
_GRPC = [("content-type", "application/grpc")]
_SERVING = b"\0\0\0\0\2\x08\x01"

pytestmark = pytest.mark.usefixtures("_poller")


@pytest.fixture(scope="module", autouse=True)
def _poller() -> None:
    """Start what grpcio keeps for the process before anything is counted."""
    start_poller()


@pytest.mark.usefixtures("no_leaks")
async def test_a_server_that_serves() -> None:
    """The server as a whole is well until it says otherwise, and again afterwards."""
    async with HealthServer() as server, closing(GrpcHealthCheck(timeout=_LIMIT)) as check:
        await check.check(Backend(server.address))

        await server.set("", "NOT_SERVING")
        error = await refused(check, server.address)
        assert error.etype == Custom("NotServing")
        assert "the server is NOT_SERVING" in str(error)

        await server.set("", "SERVING")
        await check.check(Backend(server.address))
    async with closing(GrpcHealthCheck(timeout=_LIMIT)) as check:
        error = await refused(check, server.address)
    assert error.etype is ErrorType.CONNECT_REFUSED


@pytest.mark.usefixtures("no_leaks")
async def test_one_service_of_several() -> None:
    """Each service has a status of its own; one that is not known is an error of the call."""
    async with HealthServer() as server:
        await server.set("shop.Cart", "SERVING")
        await server.set("shop.Till", "NOT_SERVING")
        async with closing(GrpcHealthCheck("shop.Cart", timeout=_LIMIT)) as check:
            await check.check(Backend(server.address))
        async with closing(GrpcHealthCheck("shop.Till", timeout=_LIMIT)) as check:
            error = await refused(check, server.address)
            assert "shop.Till is NOT_SERVING" in str(error)
        async with closing(GrpcHealthCheck("shop.Oven", timeout=_LIMIT)) as check:
            error = await refused(check, server.address)
            assert error.etype == Custom("GrpcStatus")
            assert "NOT_FOUND" in str(error)


@pytest.mark.usefixtures("no_leaks")
async def test_a_server_without_the_health_service() -> None:
    """The reason says what is missing."""
    async with (
        HealthServer(has_service=False) as server,
        closing(GrpcHealthCheck(timeout=_LIMIT)) as check,
    ):
        error = await refused(check, server.address)

    assert "UNIMPLEMENTED" in str(error)


@pytest.mark.usefixtures("no_leaks")
async def test_over_tls(
    authority: CertificateAuthority, certificate: IssuedCertificate, ca: CaBundle
) -> None:
    """The host is the name, and verified."""
    options = PeerOptions(ca=ca)
    async with HealthServer(certificate) as server:
        good = GrpcHealthCheck(host="one.test", tls=True, options=options, timeout=_LIMIT)
        async with closing(good) as check:
            await check.check(Backend(server.address))
        wrong = GrpcHealthCheck(host="two.test", tls=True, options=options, timeout=_LIMIT)
        async with closing(wrong) as check:
            error = await refused(check, server.address)

    assert error.etype is ErrorType.INVALID_CERT


@pytest.mark.usefixtures("no_leaks")
async def test_the_call_on_the_wire() -> None:
    """It is a gRPC call as the protocol describes it, on a connection that may be kept."""
    check = GrpcHealthCheck("a.B", timeout=2.5, metadata=[("x-key", "1")], reuse_connection=True)
    handler = answer(_SERVING, fields=_GRPC, trailers=[("grpc-status", "0")])
    async with StrictH2Origin(handler) as server, closing(check):
        for _ in range(2):
            await check.check(Backend(server.address))

    assert len(server.connections) == 1
    assert server.violations == []
    request = server.requests[0]
    assert bytes(request.body) == b"\0\0\0\0\5\x0a\x03a.B"
    assert dict(request.fields).items() >= {
        (b":method", b"POST"),
        (b":path", b"/grpc.health.v1.Health/Check"),
        (b":authority", server.address.encode()),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        (b"grpc-timeout", b"2500000u"),
        (b"x-key", b"1"),
    }


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (answer(b"<html>", fields=[("content-type", "text/html")]), "no gRPC server"),
        (answer(b"", status=503), "no gRPC server: HTTP status 503"),
        (answer(_SERVING, fields=_GRPC), "grpc-status None"),
        (answer(_SERVING, fields=_GRPC, trailers=[("grpc-status", "x")]), "grpc-status"),
        (answer(_SERVING, fields=_GRPC, trailers=[("grpc-status", "99")]), "99"),
        (
            answer(b"", fields=_GRPC, trailers=[("grpc-status", "14"), ("grpc-message", "%C3%BC")]),
            "UNAVAILABLE ü",
        ),
        (answer(b"\0\0", fields=_GRPC, trailers=[("grpc-status", "0")]), "HealthCheckResponse"),
        (
            answer(b"\0\0\0\0\2\x08\x03", fields=_GRPC, trailers=[("grpc-status", "0")]),
            "SERVICE_UNKNOWN",
        ),
        (answer(b"\0\0\0\0\2\x08\x09", fields=_GRPC, trailers=[("grpc-status", "0")]), "is 9"),
        (answer(b"x" * 5000, fields=_GRPC, trailers=[("grpc-status", "0")]), "max_body"),
    ],
)
@pytest.mark.usefixtures("no_leaks")
async def test_answers_that_do_not_say_serving(handler: H2Handler, reason: str) -> None:
    """Each is a failure of the backend, with a reason that can be read in a log."""
    async with (
        StrictH2Origin(handler) as server,
        closing(GrpcHealthCheck(timeout=_LIMIT)) as check,
    ):
        error = await refused(check, server.address)

    assert error.esource is ErrorSource.UPSTREAM
    assert reason in str(error)


@pytest.mark.usefixtures("no_leaks")
async def test_what_is_no_http2_server() -> None:
    """A listener that is silent runs into the deadline, one of HTTP/1 is told apart."""
    with Silent() as silent:
        async with closing(GrpcHealthCheck(timeout=0.05)) as check:
            error = await refused(check, silent.address)
    assert error.esource is ErrorSource.UPSTREAM
    async with Origin(reply()) as server, closing(GrpcHealthCheck(timeout=_LIMIT)) as check:
        error = await refused(check, server.address)
    assert error.esource is ErrorSource.UPSTREAM
