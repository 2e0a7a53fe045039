"""The test origin, the test client and nginx talk to each other as the other tests assume."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest

from tests.support.certificates import CertificateAuthority
from tests.support.client import RawClient
from tests.support.leaks import LeakCheck
from tests.support.nginx import Nginx
from tests.support.origin import Origin
from tests.support.origin_routes import DOWNLOAD_SIZE, ROUTES, rig
from tests.support.origin_steps import hang, reset, send, sequence
from tests.support.wire import CHUNKED, UNTIL_CLOSE, Truncated, WireError

if TYPE_CHECKING:
    from pathlib import Path

_GATED = {"/sleep", "/slow_body", "/upload_connection_die"}
_DYING = {"/103-die", "/abort_at", "/connection_die", "/connection_die_chunked"}
_UPGRADING = {"/upgrade", "/upgrade_echo_body"}


async def test_origin_alive() -> None:
    """The rig answers over TCP and records what it was asked."""
    async with Origin(rig) as origin, await RawClient.connect(origin.address) as client:
        response = await client.request("POST", "/echo", [("X-Mixed-Case", "1")], b"payload")

        assert (response.status, response.body) == (200, b"payload")
        [request] = origin.requests
        assert ("X-Mixed-Case", "1") in request.head.fields
        assert (request.body, request.complete, request.chunked) == (b"payload", True, False)


@pytest.mark.parametrize("path", sorted(ROUTES.keys() - _GATED - _DYING - _UPGRADING))
async def test_each_plain_route_answers_well_formed(path: str) -> None:
    """Every route that claims to answer does so in a way the strict client accepts."""
    async with LeakCheck(), Origin(rig) as origin:
        async with await RawClient.connect(origin.address) as client:
            response = await client.request("GET", path)

        assert response.status in {200, 204, 304, 413}
        assert path != "/download" or len(response.body) == DOWNLOAD_SIZE


@pytest.mark.parametrize("path", sorted(_DYING))
async def test_each_dying_route_is_seen_as_truncated(path: str) -> None:
    """A response cut short is never taken for a whole one."""
    async with Origin(rig) as origin, await RawClient.connect(origin.address) as client:
        with pytest.raises(Truncated):
            await client.request("GET", path, [("x-abort-at", "70")])


async def test_gates_pace_a_slow_body() -> None:
    """A handler stands at a gate until the test opens it."""
    async with Origin(rig) as origin, await RawClient.connect(origin.address) as client:
        await client.send_request("GET", "/slow_body")
        body = client.body_of(await client.read_head())
        pieces = []
        for _ in range(3):
            origin.open("slow_body")
            pieces.append(await body.read())
        origin.open("slow_body")

        assert (pieces, await body.read()) == ([b"1", b"2", b"3"], b"")


async def test_client_tells_framings_trailers_and_informational_heads() -> None:
    """The client tells how a response was delimited and keeps what came around it."""
    async with Origin(rig) as origin, await RawClient.connect(origin.address) as client:
        trailers = await client.request("GET", "/trailers")
        hints = await client.request("GET", "/103")
        end = await client.request("GET", "/close_delimited")

    assert trailers.framing == CHUNKED
    assert trailers.trailers == (("x-checksum", "abc"), ("x-other", "1"))
    assert [head.start_line for head in hints.informational] == ["HTTP/1.1 103 Early Hints"]
    assert end.framing == UNTIL_CLOSE


@pytest.mark.parametrize(
    "wire",
    [
        b"HTTP/1.1 200\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nBad Name: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1 \r\nx\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_client_accepts_no_malformed_response(wire: bytes) -> None:
    """The client is strict, so that a proxy that writes nonsense is caught."""
    async with (
        Origin(sequence(send(wire), hang)) as origin,
        await RawClient.connect(origin.address) as client,
    ):
        with pytest.raises(WireError):
            await client.request("GET", "/")


async def test_origin_resets_and_notices_a_reset() -> None:
    """Resets travel in both directions."""
    async with Origin(sequence(send(b"HTTP/1.1 200 "), reset)) as origin:
        async with await RawClient.connect(origin.address) as client:
            with pytest.raises(Truncated) as caught:
                await client.request("GET", "/")
            assert caught.value.reset
        origin.handler = hang
        async with await RawClient.connect(origin.address) as client:
            await client.send_request("GET", "/")
            await origin.requests_arrived(2)
            client.reset()
            await origin.all_closed()
        assert origin.connections[1].peer_reset


async def test_origin_over_unix_socket_and_tls(tmp_path: Path) -> None:
    """The rig listens on Unix sockets and with TLS as well."""
    root = CertificateAuthority(tmp_path)
    issued = root.intermediate().issue("origin.test", "127.0.0.1")
    trust = ssl.create_default_context(cafile=str(root.cert_path))
    trust.verify_flags |= ssl.VERIFY_X509_STRICT
    async with (
        Origin(rig, uds=tmp_path / "origin.sock") as unix,
        Origin(rig, tls=issued.server_context()) as secure,
    ):
        async with await RawClient.connect(unix.address) as client:
            assert (await client.request("GET", "/test2")).status == 200
        async with await RawClient.connect(
            secure.address, tls=trust, server_hostname="origin.test"
        ) as client:
            assert (await client.request("GET", "/test2")).status == 200


async def test_nginx_runs_and_ends(tmp_path: Path) -> None:
    """A real nginx serves what it is told to and leaves nothing behind."""
    (tmp_path / "page").write_bytes(b"page")
    http = "server { listen 127.0.0.1:$port$; root $directory$; }"
    async with (
        LeakCheck(),
        Nginx(tmp_path, http) as nginx,
        await RawClient.connect(nginx.address) as client,
    ):
        response = await client.request("GET", "/page")

    assert (response.status, response.body) == (200, b"page")
