"""An HTTP check asks, and looks at the status and, if told to, at the rest of the answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pingora_core.upstreams import PeerOptions
from pingora_error import CustomCode, Error, ErrorType
from pingora_load_balancing import Backend
from pingora_load_balancing.health import HttpHealthCheck
from tests.support.origin import Origin
from tests.support.origin_steps import reply, send, sequence, wait
from tests.support.ports import free_port
from tests.unit.pingora_load_balancing.health.rig import TIMED_OUT, Silent, closing, refused

if TYPE_CHECKING:
    from pathlib import Path

    from pingora_core.protocols.tls import CaBundle
    from pingora_load_balancing.health import HealthResponse
    from tests.support.certificates import IssuedCertificate
    from tests.support.origin import Exchange

pytestmark = pytest.mark.usefixtures("no_leaks")


async def test_http_check() -> None:
    """200 is well; the request is a GET with a Host field, and the connection is not kept."""
    async with Origin(reply(body=b"ok")) as server:
        async with closing(HttpHealthCheck("one.test")) as check:
            await check.check(Backend(server.address))
        await server.all_closed()

    (request,) = server.requests
    assert request.head.start_line == "GET / HTTP/1.1"
    assert request.get("host") == "one.test"
    assert request.get("user-agent") == "pingora-health-check"
    assert request.get("connection") == "close"
    assert not server.connections[0].peer_reset


async def test_the_request_is_as_told() -> None:
    """Method, path and fields are the user's; his fields come in place of the usual ones."""
    fields = [("Authorization", "Bearer x"), ("user-agent", "mine"), ("HOST", "two.test")]
    check = HttpHealthCheck("one.test", method="HEAD", path="/healthz?deep=1", headers=fields)
    async with Origin(reply(body=b"ok")) as server, closing(check):
        await check.check(Backend(server.address))

    (request,) = server.requests
    assert request.head.start_line == "HEAD /healthz?deep=1 HTTP/1.1"
    assert request.get("authorization") == "Bearer x"
    assert request.head.get_all("user-agent") == ["mine"]
    assert request.head.get_all("host") == ["two.test"]


async def test_the_host_is_that_of_the_backend(tmp_path: Path) -> None:
    """Without a host each backend is asked for itself, whatever port is asked."""
    async with Origin(reply()) as server, Origin(reply(), uds=tmp_path / "s") as local:
        async with closing(HttpHealthCheck()) as check:
            await check.check(Backend(server.address))
            await check.check(Backend(local.address))
        async with closing(HttpHealthCheck(port_override=server.port)) as check:
            await check.check(Backend("127.0.0.1:81"))

    assert [r.get("host") for r in server.requests] == [server.address, "127.0.0.1:81"]
    assert [r.get("host") for r in local.requests] == ["localhost"]


@pytest.mark.parametrize("status", ["204 No Content", "301 Moved", "404 Not Found", "500 Oops"])
async def test_another_status(status: str) -> None:
    """Only 200 is well unless something else was said; the error has the status."""
    async with Origin(reply(status)) as server, closing(HttpHealthCheck()) as check:
        error = await refused(check, server.address)

    assert error.etype == CustomCode("UnexpectedStatus", int(status[:3]))


async def test_expected_statuses() -> None:
    """A range will do, and 200 is not among them by itself."""
    async with Origin(reply("204 No Content")) as server:
        async with closing(HttpHealthCheck(expected_statuses=range(200, 300))) as check:
            await check.check(Backend(server.address))
        async with closing(HttpHealthCheck(expected_statuses={404, 410})) as check:
            await refused(check, server.address)


async def test_https_check(ca: CaBundle, certificate: IssuedCertificate) -> None:
    """Over TLS the host is the name, without its port."""
    async with Origin(reply(), tls=certificate.server_context()) as server:
        options = PeerOptions(ca=ca)
        async with closing(HttpHealthCheck("one.test:8443", True, options=options)) as check:
            await check.check(Backend(server.address))
        async with closing(HttpHealthCheck("127.0.0.1", True, options=options)) as check:
            await check.check(Backend(server.address))
        async with closing(HttpHealthCheck("x.y", True, sni="one.test", options=options)) as check:
            await check.check(Backend(server.address))
        async with closing(HttpHealthCheck("two.test", tls=True, options=options)) as check:
            error = await refused(check, server.address)

    assert error.etype is ErrorType.INVALID_CERT
    assert [r.get("host") for r in server.requests] == ["one.test:8443", "127.0.0.1", "x.y"]


# ----------------------------------------------------------------------- the validator


async def test_http_custom_check() -> None:
    """With a validator it alone decides about the status."""
    seen: list[HealthResponse] = []

    async def redirects(response: HealthResponse) -> None:
        seen.append(response)
        if response.status != 301:
            raise Error(CustomCode("NoRedirect", response.status))

    check = HttpHealthCheck(validator=redirects)
    moved = reply("301 Moved", b"there", [("Location", "/new")])
    async with Origin(moved) as server, closing(check):
        await check.check(Backend(server.address))
        server.handler = reply()
        error = await refused(check, server.address)

    assert error.etype == CustomCode("NoRedirect", 200)
    assert (seen[0].status, seen[0].body, seen[0].header.get("location")) == (301, b"there", "/new")
    assert seen[0].trailers is None


async def test_a_validator_and_statuses() -> None:
    """If both are given both have to agree."""

    async def nothing(response: HealthResponse) -> None:
        raise AssertionError("not to be asked")

    async with (
        Origin(reply("500 Oops")) as server,
        closing(HttpHealthCheck(validator=nothing, expected_statuses=[200])) as check,
    ):
        error = await refused(check, server.address)

    assert error.etype == CustomCode("UnexpectedStatus", 500)


async def test_what_a_validator_raises() -> None:
    """Any exception of it makes the check a failure, with the exception as the cause."""

    async def picky(response: HealthResponse) -> None:
        int(response.body)

    async with (
        Origin(reply(body=b"no number")) as server,
        closing(HttpHealthCheck(validator=picky)) as check,
    ):
        error = await refused(check, server.address)

    assert isinstance(error.cause, ValueError)


async def test_a_validator_that_hangs() -> None:
    """It is within the deadline too."""

    async def hang(response: HealthResponse) -> None:
        await asyncio.Event().wait()

    async with (
        Origin(reply()) as server,
        closing(HttpHealthCheck(validator=hang, timeout=0.05)) as check,
    ):
        error = await refused(check, server.address)

    assert error.etype in TIMED_OUT


async def test_trailers_and_informational_heads() -> None:
    """What comes before the head and after the body is no obstacle."""
    seen: list[HealthResponse] = []

    async def look(response: HealthResponse) -> None:
        seen.append(response)

    wire = (
        b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\nok\r\n0\r\nX-Load: 7\r\n\r\n"
    )
    async with Origin(send(wire)) as server, closing(HttpHealthCheck(validator=look)) as check:
        await check.check(Backend(server.address))

    assert seen[0].body == b"ok"
    assert seen[0].trailers is not None
    assert seen[0].trailers.get("x-load") == "7"


# ------------------------------------------------------------------------------- bounds


async def _endless(exchange: Exchange) -> None:
    await exchange.start_chunked()
    while not exchange.connection.writer.is_closing():
        await exchange.send_chunk(b"x" * 1000)
        await asyncio.sleep(0.001)


async def test_a_body_without_end() -> None:
    """The status is known by then: after the bound the rest is not read, and not waited for."""
    async with Origin(_endless) as server:
        async with closing(HttpHealthCheck(max_body=5000, reuse_connection=True)) as check:
            await check.check(Backend(server.address))
        await server.all_closed()


async def test_a_body_that_is_too_long_for_a_validator() -> None:
    """A validator that saw the half of it could be wrong."""

    async def fine(response: HealthResponse) -> None:
        pass

    async with Origin(_endless) as server:
        async with closing(HttpHealthCheck(max_body=5000, validator=fine)) as check:
            error = await refused(check, server.address)
        await server.all_closed()

    assert "max_body" in str(error)


async def test_the_deadline_is_a_total_one() -> None:
    """A server that sends a little from time to time does not outlast it."""

    async def handler(exchange: Exchange) -> None:
        await exchange.start_chunked()
        while not exchange.connection.writer.is_closing():
            await exchange.send_chunk(b"x")
            await asyncio.sleep(0.005)

    async with Origin(handler) as server, closing(HttpHealthCheck(timeout=0.1)) as check:
        error = await refused(check, server.address)
        await server.all_closed()

    assert error.etype in TIMED_OUT


async def test_a_server_that_stalls() -> None:
    """No answer in time is a failure, and the connection is gone."""
    with Silent() as silent:
        async with closing(HttpHealthCheck(timeout=0.05)) as check:
            error = await refused(check, silent.address)

    assert error.etype in TIMED_OUT
    assert "within 0.05 s" in str(error)


async def test_cancelling() -> None:
    """A check that is cancelled leaves nothing behind."""
    async with Origin(wait("never")) as server, closing(HttpHealthCheck()) as check:
        task = asyncio.create_task(check.check(Backend(server.address)))
        await server.requests_arrived()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        server.open("never")
        await server.all_closed()


@pytest.mark.parametrize(
    "wire",
    [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", b"SSH-2.0-OpenSSH_9.2\r\n\r\n"],
)
async def test_answers_that_are_none(wire: bytes) -> None:
    """Half an answer, none at all, or another protocol: a failure."""

    async def handler(exchange: Exchange) -> None:
        await exchange.send(wire)
        exchange.close()

    async with Origin(handler) as server, closing(HttpHealthCheck()) as check:
        await refused(check, server.address)


async def test_refused() -> None:
    """Nobody listens."""
    async with closing(HttpHealthCheck()) as check:
        error = await refused(check, f"127.0.0.1:{free_port()}")

    assert error.etype is ErrorType.CONNECT_REFUSED


# -------------------------------------------------------------------------------- reuse


async def test_connections_are_not_reused() -> None:
    """Each check makes its own connection, and closes it."""
    async with Origin(reply()) as server, closing(HttpHealthCheck()) as check:
        for _ in range(3):
            await check.check(Backend(server.address))
        await server.all_closed()

    assert len(server.connections) == 3


async def test_connections_are_reused() -> None:
    """If told to, one connection to each backend serves all checks."""
    async with Origin(reply()) as one, Origin(reply()) as two:
        async with closing(HttpHealthCheck(reuse_connection=True)) as check:
            for _ in range(3):
                await check.check(Backend(one.address))
                await check.check(Backend(two.address))
        await one.all_closed()

    assert len(one.connections) == len(two.connections) == 1
    assert one.requests[0].get("connection") is None


async def test_a_kept_connection_that_dies_with_the_request() -> None:
    """It says nothing of the backend: a new connection is tried, once."""

    async def handler(exchange: Exchange) -> None:
        if exchange.request.number == 0:
            await exchange.reply()
        else:
            exchange.close()

    async with (
        Origin(handler) as server,
        closing(HttpHealthCheck(reuse_connection=True)) as check,
    ):
        await check.check(Backend(server.address))
        await check.check(Backend(server.address))
        assert len(server.connections) == 2

        server.handler = sequence(send(b"HTTP/1.1 200"), wait("cut"))
        task = asyncio.create_task(refused(check, server.address))
        await server.requests_arrived(4)
        server.connections[1].reset()
        await task

    assert len(server.connections) == 2


# ----------------------------------------------------------------------------- mistakes


def test_arguments_that_make_no_sense() -> None:
    """They are refused at once."""
    with pytest.raises(ValueError, match="max_body"):
        HttpHealthCheck(max_body=-1)
    with pytest.raises(Error, match="InvalidHTTPHeader"):
        HttpHealthCheck(path="/a b")
    with pytest.raises(Error, match="InvalidHTTPHeader"):
        HttpHealthCheck("one.test\r\nX: y")
