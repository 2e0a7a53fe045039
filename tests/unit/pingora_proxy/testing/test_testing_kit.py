"""The testing kit does what its documentation promises, in the three patterns that it names."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pingora_core import HttpPeer
from pingora_core.listeners.tls import TlsSettings
from pingora_core.protocols.ssl_digest import SslDigest
from pingora_core.protocols.tls.certificate import CaBundle
from pingora_core.upstreams.options import PeerOptions
from pingora_error import Error
from pingora_http import Version
from pingora_proxy import ProxyHttp
from pingora_proxy.testing import (
    Client,
    FakeClock,
    RunningProxy,
    ScriptedOrigin,
    cut_off,
    hang,
    make_session,
    record_phases,
    reply,
    reset,
    stream,
)
from tests.support.certificates import CertificateAuthority

if TYPE_CHECKING:
    from pathlib import Path

    from pingora_core.protocols.http.server import ServerSession
    from pingora_http import RequestHeader
    from pingora_proxy import Session
    from pingora_proxy.testing import Step
    from pingora_proxy.testing.pytest_plugin import StartProxy


# --8<-- [start:gate]
class Gate(ProxyHttp[None]):
    """Lets those in who have a key."""

    def __init__(self, origin: str = "127.0.0.1:1") -> None:
        self.origin = origin

    def new_ctx(self) -> None:
        return None

    async def request_filter(self, session: Session, ctx: None) -> bool:
        if session.req_header.get("x-key") == "sesame":
            return False
        await session.respond_error(401, b"no key")
        return True

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        return HttpPeer(self.origin)

    async def upstream_request_filter(
        self, session: Session, upstream_request: RequestHeader, ctx: None
    ) -> None:
        upstream_request.remove_header("x-key")


# --8<-- [end:gate]


# --8<-- [start:callback]
async def test_one_callback_without_a_socket() -> None:
    """A filter is called with a session that remembers what was sent."""
    app = Gate()
    stranger = make_session("GET", "/", [("Host", "a.test")])
    assert await app.request_filter(stranger, None)
    assert stranger.sent is not None
    assert (stranger.sent.status, stranger.sent.text) == (401, "no key")

    friend = make_session("GET", "/", [("Host", "a.test"), ("X-Key", "sesame")])
    assert not await app.request_filter(friend, None)
    assert friend.sent is None


# --8<-- [end:callback]


async def test_a_session_has_a_body_and_a_client() -> None:
    """The body is read like any other, once."""
    session = make_session("POST", "/x?y=1", [("Host", "a.test")], b"body", client="192.0.2.1:99")
    assert session.req_header.get("content-length") == "4"
    assert str(session.client_addr) == "192.0.2.1:99"
    assert await session.read_request_body() == b"body"
    assert await session.read_request_body() is None
    assert session.downstream_session.is_body_done
    assert not session.is_subrequest


# --8<-- [start:whole]
async def test_a_whole_proxy_between_a_client_and_an_origin() -> None:
    """Requests go through on real sockets, and the origin remembers them."""
    async with ScriptedOrigin() as origin:
        origin.on("/flaky", reply(503), reply(200, b"at last"))
        async with RunningProxy(Gate(origin.address)) as proxy:
            key = [("X-Key", "sesame")]
            assert (await proxy.get("/flaky")).status == 401
            assert (await proxy.get("/flaky", key)).status == 503
            last = await proxy.request("POST", "/flaky?again", key, b"data")
            assert (last.status, last.text) == (200, "at last")
            assert (await proxy.get("/unknown", key)).status == 404
    assert [request.path for request in origin.requests] == ["/flaky", "/flaky", "/unknown"]
    assert origin.requests[1].body == b"data"
    assert origin.requests[1].header.get("x-key") is None


# --8<-- [end:whole]


# --8<-- [start:phases]
async def test_phases_are_recorded_in_their_order() -> None:
    """Every callback is noted, overridden or not."""
    async with ScriptedOrigin() as origin:
        origin.on("*", reply(200, b"x"))
        app = Gate(origin.address)
        phases = record_phases(app)
        async with RunningProxy(app) as proxy:
            assert (await proxy.get("/", [("X-Key", "sesame")])).status == 200
    expected = ["new_ctx", "early_request_filter", "request_filter", "upstream_peer"]
    expected += [
        "upstream_request_filter",
        "upstream_response_filter",
        "response_filter",
        "logging",
    ]
    assert [name for name in phases if name in expected] == expected


# --8<-- [end:phases]


async def test_faults_of_an_origin_are_seen_as_such() -> None:
    """What is cut off, reset or never answered is not taken for a response."""
    async with ScriptedOrigin() as origin:
        origin.on("/cut", cut_off(b"half", 8))
        origin.on("/reset", reset)
        origin.on("/hang", hang)
        gate = asyncio.Event()
        origin.on("/stream", stream([b"a", b"b"], gate=gate))
        async with RunningProxy(Gate(origin.address)) as proxy:
            key = [("X-Key", "sesame")]
            with pytest.raises(Error):
                await proxy.get("/cut", key)
            assert (await proxy.get("/reset", key)).status == 502
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await proxy.get("/hang", key)
            gate.set()
            assert (await proxy.get("/stream", key)).body == b"ab"


# --8<-- [start:fixtures]
async def test_the_fixtures_start_and_stop(
    scripted_origin: ScriptedOrigin, start_proxy: StartProxy
) -> None:
    """They are ready to use, and are cleaned up after the test."""
    scripted_origin.on("*", reply(204))
    proxy = await start_proxy(Gate(scripted_origin.address))
    assert (await proxy.get("/", [("X-Key", "sesame")])).status == 204


# --8<-- [end:fixtures]


# --8<-- [start:expect]
async def ask(times: int) -> None:
    """Ask an origin that expects two requests.

    Args:
        times: How often.
    """
    async with ScriptedOrigin() as origin, Client(origin.address) as client:
        origin.expect("/a", reply(503), reply(200))
        for _ in range(times):
            await client.get("/a")


async def test_a_script_can_say_how_often_it_is_asked() -> None:
    """One request less, or one more, fails the test and says what came."""
    await ask(2)
    with pytest.raises(AssertionError, match=r"/a: 1 came, 2 were expected \(in all: GET /a\)"):
        await ask(1)
    with pytest.raises(AssertionError, match="/a: 3 came, 2 were expected"):
        await ask(3)


# --8<-- [end:expect]


async def fail_within(step: Step) -> None:
    """Have a request met by a step, and fail.

    Args:
        step: What meets it.
    """
    async with ScriptedOrigin() as origin, Client(origin.address) as client:
        origin.on("*", step)
        with pytest.raises(Error):
            await client.get()


async def test_what_a_step_asserts_fails_the_test() -> None:
    """It is not lost behind a 502."""

    async def step(session: ServerSession) -> None:
        assert session.request.method == "PUT", "a PUT was expected"

    with pytest.raises(AssertionError, match="a PUT was expected"):
        await fail_within(step)


async def test_a_failure_of_the_test_itself_is_not_covered() -> None:
    """What the script misses then is no news."""

    async def fail() -> None:
        async with ScriptedOrigin() as origin:
            origin.expect("/never", reply(200))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()


async def test_an_origin_may_speak_tls_and_http2(tmp_path: Path) -> None:
    """And so may the client."""
    authority = CertificateAuthority(tmp_path)
    issued = authority.issue("localhost")
    settings = TlsSettings.intermediate(issued.chain_path, issued.key_path)
    settings.enable_h2()
    async with ScriptedOrigin(tls=settings) as origin:
        origin.expect("/", reply(200, b"safe"))
        options = PeerOptions.default()
        options.set_http_version(2, 1)
        options.ca = CaBundle.from_pem(authority.cert_pem)
        peer = HttpPeer(origin.address, tls=True, sni="localhost", options=options)
        async with Client(peer) as client:
            assert (await client.get()).text == "safe"
        assert origin.requests[0].header.version is Version.HTTP_20


def test_a_session_may_have_come_over_tls() -> None:
    """For callbacks that send clients to https."""
    tls = SslDigest("TLS_AES_128_GCM_SHA256", "TLSv1.3", sni="a.test")
    assert make_session(tls=tls).scheme == "https"
    assert make_session().scheme == "http"


async def test_a_proxy_that_cannot_start_says_why() -> None:
    """The error is that of its ``startup``, and nothing is left behind."""

    class Broken(Gate):
        async def startup(self) -> None:
            msg = "no database"
            raise OSError(msg)

    with pytest.raises(OSError, match="no database"):
        await RunningProxy(Broken()).__aenter__()


def test_a_fake_clock_moves_forward_only() -> None:
    """It stands still unless a test says so."""
    clock = FakeClock(10.0)
    clock.advance(1.5)
    assert clock() == 11.5
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)


def test_misuse_is_told() -> None:
    """A script without a step, a client that is a name, a proxy that does not run."""
    with pytest.raises(ValueError, match="at least one step"):
        ScriptedOrigin().on("/")
    with pytest.raises(ValueError, match="not a name"):
        make_session(client="a.test:1")
    with pytest.raises(RuntimeError, match="async with"):
        _ = RunningProxy(Gate()).client
