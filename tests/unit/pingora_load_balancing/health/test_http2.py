"""An HTTP/2 check speaks HTTP/2 as a proxy would, judged frame by frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pingora_core.protocols.tls.alpn import ALPN
from pingora_core.upstreams import PeerOptions
from pingora_error import CustomCode, ErrorSource, ErrorType
from pingora_load_balancing import Backend
from pingora_load_balancing.health import HttpHealthCheck
from tests.support.h2origin import StrictH2Origin, answer
from tests.support.origin import Origin
from tests.support.origin_steps import reply
from tests.unit.pingora_load_balancing.health.rig import TIMED_OUT, closing, refused

if TYPE_CHECKING:
    from pingora_core.protocols.tls import CaBundle
    from pingora_load_balancing.health import HealthResponse
    from tests.support.certificates import IssuedCertificate
    from tests.support.h2origin import H2Exchange

pytestmark = pytest.mark.usefixtures("no_leaks")


async def test_with_prior_knowledge() -> None:
    """In clear it is spoken from the first byte; the connection is closed afterwards."""
    seen: list[HealthResponse] = []

    async def look(response: HealthResponse) -> None:
        seen.append(response)

    check = HttpHealthCheck("one.test", http2=True, path="/h", validator=look)
    async with StrictH2Origin(answer()) as server, closing(check):
        for _ in range(2):
            await check.check(Backend(server.address))
        await server.all_closed()

    assert server.violations == []
    assert len(server.connections) == 2
    fields = dict(server.requests[0].fields)
    assert fields[b":authority"] == b"one.test"
    assert fields[b":path"] == b"/h"
    assert fields[b":scheme"] == b"http"
    assert b"connection" not in fields
    assert seen[0].body == b"ok"


async def test_over_tls(ca: CaBundle, certificate: IssuedCertificate) -> None:
    """It is negotiated, and verified as ever."""
    context = certificate.server_context(alpn=("h2",))
    options = PeerOptions(ca=ca)
    async with StrictH2Origin(answer(), tls=context) as server:
        async with closing(HttpHealthCheck("one.test", True, http2=True, options=options)) as check:
            await check.check(Backend(server.address))
        async with closing(HttpHealthCheck("two.test", True, http2=True, options=options)) as check:
            error = await refused(check, server.address)

    assert error.etype is ErrorType.INVALID_CERT
    assert server.violations == []


async def test_either_version(ca: CaBundle, certificate: IssuedCertificate) -> None:
    """The options may leave the choice to the server."""
    options = PeerOptions(ca=ca, alpn=ALPN.H2H1)
    check = HttpHealthCheck("one.test", True, options=options)
    async with closing(check):
        context = certificate.server_context(alpn=("h2",))
        async with StrictH2Origin(answer(), tls=context) as server:
            await check.check(Backend(server.address))
            assert server.violations == []
        async with Origin(reply(), tls=certificate.server_context(alpn=("http/1.1",))) as old:
            await check.check(Backend(old.address))


async def test_another_status() -> None:
    """The status counts as in HTTP/1."""
    async with (
        StrictH2Origin(answer(status=503)) as server,
        closing(HttpHealthCheck(http2=True)) as check,
    ):
        error = await refused(check, server.address)

    assert error.etype == CustomCode("UnexpectedStatus", 503)


async def test_the_connection_is_kept() -> None:
    """If told to, all checks of a backend share one connection."""
    async with (
        StrictH2Origin(answer()) as server,
        closing(HttpHealthCheck(http2=True, reuse_connection=True)) as check,
    ):
        for _ in range(3):
            await check.check(Backend(server.address))

    assert len(server.connections) == 1
    assert len(server.requests) == 3
    assert server.violations == []


async def test_a_body_without_end() -> None:
    """What is beyond the bound is given up, without harm to the connection."""

    async def handler(exchange: H2Exchange) -> None:
        exchange.head()
        while True:
            await exchange.data(b"x" * 4096)

    async with (
        StrictH2Origin(handler) as server,
        closing(HttpHealthCheck(http2=True, reuse_connection=True)) as check,
    ):
        for _ in range(2):
            await check.check(Backend(server.address))

    assert len(server.connections) == 1
    assert server.violations == []


async def test_a_stream_that_is_reset() -> None:
    """It is a failure of the backend."""

    async def handler(exchange: H2Exchange) -> None:
        exchange.reset()

    async with StrictH2Origin(handler) as server, closing(HttpHealthCheck(http2=True)) as check:
        error = await refused(check, server.address)

    assert error.esource is ErrorSource.UPSTREAM


async def test_a_server_that_stalls() -> None:
    """The deadline holds here too."""

    async def handler(exchange: H2Exchange) -> None:
        await exchange.passed("never")

    async with StrictH2Origin(handler) as server:
        async with closing(HttpHealthCheck(http2=True, timeout=0.1)) as check:
            error = await refused(check, server.address)
        server.open("never")

    assert error.etype in TIMED_OUT


async def test_a_server_of_http1() -> None:
    """It does not speak HTTP/2, so it fails a check that wants that."""
    async with Origin(reply()) as server, closing(HttpHealthCheck(http2=True)) as check:
        error = await refused(check, server.address)

    assert error.esource is ErrorSource.UPSTREAM
