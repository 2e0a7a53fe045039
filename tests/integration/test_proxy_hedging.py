"""A request that takes too long is under way twice, and the client sees one answer: the first."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from pingora_core.protocols.tls import ALPN
from pingora_core.upstreams import HttpPeer
from pingora_error import Error, ErrorSource, ErrorType, HTTPStatus
from pingora_proxy import Hedge
from tests.support.h2origin import StrictH2Origin, answer
from tests.support.h2wire import Code
from tests.support.origin import Origin
from tests.support.origin_steps import hang, reply, reset, send, sequence, wait
from tests.support.proxy import RigProxy, RunningProxy
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from pingora_core.protocols.digest import Digest
    from pingora_http import RequestHeader, ResponseHeader
    from pingora_proxy import HedgePlan, Session
    from tests.support.h2origin import H2Exchange
    from tests.support.proxy import RigContext

_FINE = reply(body=b"second")
_NEVER = 60.0


class HedgingProxy(RigProxy):
    """The rig's proxy, which hedges, and takes down which callbacks ran for which try.

    Args:
        first: Where requests go.
        second: Where they are hedged; an exception is raised, None does without.
        delay: Seconds.

    Attributes:
        ran: Callbacks, and which try they were called for.
        settled: The addresses of the winners.
        judged: The statuses that ``accepts`` was asked about.
        may_choose: Holds the second try up while it is not set.
        first_is_there: Does so as well until this holds: the delay alone does not tell how far the
            first one has come.
        again: Whether failures are to be retried.
    """

    def __init__(
        self, first: str | HttpPeer, second: str | HttpPeer | Exception | None, delay: float = 0.02
    ) -> None:
        self._first_peer = HttpPeer(first) if isinstance(first, str) else first
        super().__init__(lambda _: self._first_peer)
        self.second = HttpPeer(second) if isinstance(second, str) else second
        self.delay = delay
        self.ran: list[tuple[str, str]] = []
        self.settled: list[str] = []
        self.judged: list[int] = []
        self.chosen = 0
        self.may_choose = asyncio.Event()
        self.may_choose.set()
        self.first_is_there: Callable[[], object] = lambda: True
        self.again = False

    def hedge_request(self, session: Session, peer: HttpPeer, ctx: RigContext) -> HedgePlan | None:
        return Hedge(self.delay, self._choose, self._accepts, self._note_winner)

    async def _choose(self) -> HttpPeer | None:
        self.chosen += 1
        await self.may_choose.wait()
        await eventually(self.first_is_there)
        if isinstance(self.second, Exception):
            raise self.second
        return self.second

    def _note_winner(self, peer: HttpPeer) -> None:
        self.settled.append(str(peer.address))

    def _accepts(self, peer: HttpPeer, response: ResponseHeader) -> bool:
        self.judged.append(response.status)
        return response.status < 500

    def _note(self, name: str, peer: HttpPeer) -> None:
        self.ran.append((name, "first" if peer is self._first_peer else "second"))

    async def fail_to_connect(
        self, session: Session, peer: HttpPeer, ctx: RigContext, error: Error
    ) -> Error:
        self._note("fail_to_connect", peer)
        error.set_retry(self.again)
        return error

    async def connected_to_upstream(
        self, session: Session, reused: bool, peer: HttpPeer, digest: Digest, ctx: RigContext
    ) -> None:
        await super().connected_to_upstream(session, reused, peer, digest, ctx)
        self._note("connected", peer)

    async def upstream_request_filter(
        self, session: Session, upstream_request: RequestHeader, ctx: RigContext
    ) -> None:
        upstream_request.insert_header("x-filtered", "1")

    async def error_while_proxy(
        self, peer: HttpPeer, session: Session, error: Error, ctx: RigContext, client_reused: bool
    ) -> Error:
        self._note("error_while_proxy", peer)
        error.set_retry(self.again)
        return error

    async def logging(self, session: Session, error: Error | None, ctx: RigContext) -> None:
        digest = session.upstream_digest
        if digest is not None and digest.socket_digest is not None:
            self.ran.append(("logging", str(digest.socket_digest.peer_addr)))
        await super().logging(session, error, ctx)


@pytest.fixture
async def slow() -> AsyncIterator[Origin]:
    """An origin that does not answer."""
    async with Origin(hang) as running:
        yield running


@pytest.fixture
async def second() -> AsyncIterator[Origin]:
    """Another one, that does."""
    async with Origin(_FINE) as running:
        yield running


@pytest.fixture
def full_backlog() -> Iterator[str]:
    """Address of a listener that completes no further connection."""
    listener = socket.socket()
    waiting: list[socket.socket] = []
    with listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(listener.getsockname())
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        for sock in waiting:
            sock.close()


# ------------------------------------------------------------------------------- the race


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE", "PUT"])
async def test_the_second_answers_for_a_slow_first(
    slow: Origin, second: Origin, method: str
) -> None:
    """The client has its answer, and the connection of the loser is closed at once."""
    app = HedgingProxy(slow.address, second.address)
    app.first_is_there = lambda: len(slow.requests) > len(second.requests)
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        response = await client.request(method)
        assert (response.status, response.body) == (200, b"" if method == "HEAD" else b"second")
        await slow.all_closed()
        # What was filtered and seen is the winner's.
        assert response.get("x-upstream-server-addr") == second.address
        assert (await client.request(method)).get("x-conn-reuse") == "1"

    await app.ended(2)
    assert app.settled == [second.address] * 2
    assert ("logging", second.address) in app.ran
    assert "error_while_proxy" not in {name for name, _ in app.ran}
    assert [len(slow.requests), len(second.requests)] == [2, 2]
    assert {r.get("x-filtered") for r in slow.requests + second.requests} == {"1"}


async def test_a_quick_first_is_not_hedged(second: Origin) -> None:
    """The other peer is not even chosen, and the connection is kept."""
    async with Origin(reply(body=b"first")) as quick:
        app = HedgingProxy(quick.address, second.address, delay=_NEVER)
        async with RunningProxy(app) as proxy, await proxy.connect() as client:
            for reused in "01":
                response = await client.request()
                assert (response.body, response.get("x-conn-reuse")) == (b"first", reused)
    await app.ended(2)
    assert (app.chosen, app.settled) == (0, [quick.address] * 2)


async def test_a_first_that_is_late_still_wins(slow: Origin) -> None:
    """If the second is later; then that one is given up."""
    async with Origin(sequence(wait("go"), reply(body=b"first"))) as late:
        app = HedgingProxy(late.address, slow.address)
        async with RunningProxy(app) as proxy, await proxy.connect() as client:
            await client.send_request()
            await slow.requests_arrived()
            late.open("go")
            assert (await client.read_response()).body == b"first"
            await slow.all_closed()
            late.open("go")
            await client.send_request()
            assert (await client.read_response()).get("x-conn-reuse") == "1"


async def test_a_connection_that_is_not_made_is_overtaken(
    full_backlog: str, second: Origin
) -> None:
    """The first try is hedged wherever it waits, and given up there."""
    app = HedgingProxy(full_backlog, second.address)
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        assert (await client.request()).body == b"second"
    await app.ended()
    assert app.ran == [("connected", "second"), ("logging", second.address)]


@pytest.mark.parametrize("body", [b"", b"x"], ids=["without body", "with body"])
async def test_a_post_is_never_hedged(second: Origin, body: bytes) -> None:
    """Nor is a PUT with a body."""
    async with Origin(sequence(wait("go"), reply(body=b"first"))) as late:
        app = HedgingProxy(late.address, second.address, delay=0.0)
        async with RunningProxy(app) as proxy, await proxy.connect() as client:
            for method in ["POST", "PUT"] if body else ["POST"]:
                await client.send_request(method, body=body)
                await late.requests_arrived(1 if method == "POST" else 2)
                await asyncio.sleep(0.03)
                late.open("go")
                assert (await client.read_response()).body == b"first"
    assert (app.chosen, second.requests) == (0, [])


@pytest.mark.parametrize(
    "choice", [None, Error(HTTPStatus(503), "none is left"), ValueError("oops")]
)
async def test_without_a_second_peer_the_first_goes_on(choice: Exception | None) -> None:
    """Whether there is none, as with a budget used up, or choosing one fails."""
    async with Origin(sequence(wait("go"), reply(body=b"first"))) as late:
        app = HedgingProxy(late.address, choice)
        async with RunningProxy(app) as proxy, await proxy.connect() as client:
            await client.send_request()
            await eventually(lambda: app.chosen)
            late.open("go")
            assert (await client.read_response()).body == b"first"
    assert app.chosen == 1


async def test_informational_heads_of_the_winner_are_relayed(second: Origin) -> None:
    """Those of the loser are not, once there are two."""
    hints = b"HTTP/1.1 103 Early Hints\r\nlink: <%s>\r\n\r\n"
    early = sequence(send(hints % b"0"), wait("go"), send(hints % b"1"), hang)
    second.handler = sequence(send(hints % b"2"), wait("go"), _FINE)
    async with Origin(early) as first:
        app = HedgingProxy(first.address, second.address)
        app.may_choose.clear()
        async with RunningProxy(app) as proxy, await proxy.connect() as client:
            await client.send_request()
            assert (await client.read_head()).get("link") == "<0>"
            app.may_choose.set()
            await second.requests_arrived()
            first.open("go")
            second.open("go")
            final, informational = await client.read_final_head()
            assert [head.get("link") for head in informational] == ["<2>"]
            assert await client.body_of(final).read_all() == b"second"


# ------------------------------------------------------------------------------- failures


async def test_a_first_that_fails_leaves_the_second_running(second: Origin) -> None:
    """Its failure is judged, and nothing is retried beyond that."""
    second.handler = sequence(wait("go"), _FINE)
    async with Origin(sequence(wait("go"), reset)) as first:
        app = HedgingProxy(first.address, second.address)
        app.again = True
        async with RunningProxy(app) as proxy, await proxy.connect() as client:
            await client.send_request()
            await second.requests_arrived()
            first.open("go")
            await eventually(lambda: ("error_while_proxy", "first") in app.ran)
            second.open("go")
            assert (await client.read_response()).body == b"second"
        ending = await app.ended()
        assert (ending.context.attempts, ending.error) == (1, None)
        assert [len(first.requests), len(second.requests)] == [1, 1]


@pytest.mark.parametrize("bad", ["dead", "reset", "500"])
async def test_a_second_that_fails_leaves_the_first_running(dead: str, bad: str) -> None:
    """A refused connection, a reset, an answer that will not do: the first is waited for."""
    handler = reset if bad == "reset" else reply("500 Broken")
    async with Origin(sequence(wait("go"), reply(body=b"first"))) as late, Origin(handler) as other:
        app = HedgingProxy(late.address, dead if bad == "dead" else other.address)
        async with RunningProxy(app) as proxy, await proxy.connect() as client:
            await client.send_request()
            judged = {"dead": "fail_to_connect", "reset": "error_while_proxy", "500": "connected"}
            await eventually(lambda: (judged[bad], "second") in app.ran)
            if bad == "500":
                await eventually(lambda: app.judged)
            late.open("go")
            response = await client.read_response()
            assert (response.status, response.body) == (200, b"first")
            assert response.get("x-conn-reuse") is not None
        ending = await app.ended()
        assert ending.error is None
        assert app.settled == [late.address]


async def test_if_both_fail_the_first_error_counts(dead: str) -> None:
    """There is one attempt, if nobody wants another."""
    async with Origin(sequence(wait("go"), reset)) as first:
        app = HedgingProxy(first.address, dead)
        async with RunningProxy(app) as proxy, await proxy.connect() as client:
            await client.send_request()
            await eventually(lambda: ("fail_to_connect", "second") in app.ran)
            first.open("go")
            assert (await client.read_response()).status == 502
        ending = await app.ended()
    assert ending.error is not None
    assert ending.error.root_etype is not ErrorType.CONNECT_REFUSED
    assert ending.error.esource is ErrorSource.UPSTREAM
    assert (ending.context.attempts, app.settled) == (1, [])


async def test_if_both_fail_there_may_be_another_attempt(second: Origin, dead: str) -> None:
    """It is hedged as well, with a delay of its own."""
    async with Origin(sequence(wait("go"), reset)) as first:
        app = HedgingProxy(first.address, dead)
        app.again = True
        async with RunningProxy(app) as proxy, await proxy.connect() as client:
            await client.send_request()
            await eventually(lambda: ("fail_to_connect", "second") in app.ran)
            app.second = HttpPeer(second.address)
            first.open("go")
            await first.requests_arrived(2)
            assert (await client.read_response()).body == b"second"
        ending = await app.ended()
        assert (ending.context.attempts, app.chosen) == (2, 2)


async def test_a_first_answer_that_will_not_do(second: Origin) -> None:
    """The second is waited for, and relayed."""
    second.handler = sequence(wait("go"), _FINE)
    async with Origin(sequence(wait("go"), reply("500 Broken", body=b"first"))) as first:
        app = HedgingProxy(first.address, second.address)
        async with RunningProxy(app) as proxy, await proxy.connect() as client:
            await client.send_request()
            await second.requests_arrived()
            first.open("go")
            await eventually(lambda: app.judged)
            second.open("go")
            assert (await client.read_response()).body == b"second"
            await first.all_closed()


@pytest.mark.parametrize("late", [0, 1])
async def test_two_answers_that_will_not_do(late: int) -> None:
    """The first one's is passed on, whichever comes last."""
    origins = [
        Origin(sequence(wait("go"), reply("500 Broken", body=b"%d" % number))) for number in (0, 1)
    ]
    async with origins[0] as first, origins[1] as other:
        app = HedgingProxy(first.address, other.address)
        async with RunningProxy(app) as proxy, await proxy.connect() as client:
            await client.send_request()
            await other.requests_arrived()
            origins[1 - late].open("go")
            await eventually(lambda: app.judged)
            origins[late].open("go")
            response = await client.read_response()
            assert (response.status, response.body) == (500, b"0")


async def test_a_judgement_that_fails_takes_the_answer(slow: Origin, second: Origin) -> None:
    """Better than none; the fault is in the log."""

    class Faulty(HedgingProxy):
        def _accepts(self, peer: HttpPeer, response: ResponseHeader) -> bool:
            raise ZeroDivisionError

    app = Faulty(slow.address, second.address)
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        assert (await client.request()).body == b"second"


async def test_a_fault_of_the_program_ends_both(slow: Origin) -> None:
    """What a callback raises for the first try is no upstream's failure."""

    class Faulty(HedgingProxy):
        async def connected_to_upstream(
            self, session: Session, reused: bool, peer: HttpPeer, digest: Digest, ctx: RigContext
        ) -> None:
            if peer is self._first_peer:
                await eventually(lambda: len(slow.requests) == 1)
                raise ZeroDivisionError

    async with Origin(hang) as first:
        app = Faulty(first.address, slow.address)
        async with RunningProxy(app) as proxy, await proxy.connect() as client:
            assert (await client.request()).status == 500
            await slow.all_closed()


# --------------------------------------------------------------------------------- endings


@pytest.mark.parametrize("where", ["connecting", "waiting", "alone"])
async def test_a_client_that_leaves_ends_both(full_backlog: str, slow: Origin, where: str) -> None:
    """Wherever they are; it is nobody's failure but the client's."""
    async with Origin(sequence(wait("go"), reset) if where == "alone" else hang) as first:
        app = HedgingProxy(full_backlog if where == "connecting" else first.address, slow.address)
        async with RunningProxy(app) as proxy:
            async with await proxy.connect() as client:
                await client.send_request()
                await slow.requests_arrived()
                if where == "alone":
                    first.open("go")
                    await eventually(lambda: ("error_while_proxy", "first") in app.ran)
            ending = await app.ended()
            await slow.all_closed()
            await first.all_closed()
    assert ending.error is not None
    assert ending.error.esource is ErrorSource.DOWNSTREAM
    assert app.settled == []


async def test_a_client_that_leaves_before_ends_the_first(slow: Origin) -> None:
    """As it does without a hedge."""
    app = HedgingProxy(slow.address, None, delay=_NEVER)
    async with RunningProxy(app) as proxy:
        async with await proxy.connect() as client:
            await client.send_request()
            await slow.requests_arrived()
        ending = await app.ended()
        await slow.all_closed()
    assert ending.error is not None
    assert ending.error.esource is ErrorSource.DOWNSTREAM


async def test_a_winner_can_fail_later(slow: Origin) -> None:
    """Its connection breaks within the body: the client's is cut, and nothing is tried again."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhell"
    async with Origin(sequence(send(head), wait("go"), reset)) as breaking:
        app = HedgingProxy(slow.address, breaking.address)
        app.first_is_there = lambda: slow.requests
        app.again = True
        async with RunningProxy(app) as proxy, await proxy.connect() as client:
            await client.send_request()
            await client.read_head()
            assert await client.receive_exactly(4) == b"hell"
            await slow.all_closed()
            breaking.open("go")
            assert await client.is_closed_by_server()
        ending = await app.ended()
    assert ending.error is not None
    assert app.ran[-2][0] == "error_while_proxy"
    assert len(slow.requests) == 1


@pytest.mark.parametrize("only", [False, True])
async def test_an_interruption_ends_all_or_one(slow: Origin, second: Origin, only: bool) -> None:
    """All there is, unless one try is named."""
    sessions: list[Session] = []

    class Keeping(HedgingProxy):
        async def upstream_peer(self, session: Session, ctx: RigContext) -> HttpPeer:
            sessions.append(session)
            return await super().upstream_peer(session, ctx)

    second.handler = sequence(wait("go"), _FINE)
    app = Keeping(slow.address, second.address)
    app.first_is_there = lambda: slow.requests
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        await client.send_request()
        await second.requests_arrived()
        late = Error.up(HTTPStatus(504), "too late")
        sessions[0].interrupt(late, peer=app._first_peer if only else None)
        await eventually(lambda: ("error_while_proxy", "first") in app.ran)
        if only:
            second.open("go")
        assert (await client.read_response()).status == (200 if only else 504)
        await slow.all_closed()
    await app.ended()
    assert ("error_while_proxy", "second") not in app.ran


async def test_a_winner_is_interrupted(slow: Origin) -> None:
    """By what would end any exchange."""
    sessions: list[Session] = []

    class Keeping(HedgingProxy):
        async def response_filter(
            self, session: Session, upstream_response: ResponseHeader, ctx: RigContext
        ) -> None:
            sessions.append(session)

    head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhell"
    async with Origin(sequence(send(head), hang)) as winning:
        app = Keeping(slow.address, winning.address)
        async with RunningProxy(app) as proxy, await proxy.connect() as client:
            await client.send_request()
            await client.read_head()
            assert await client.receive_exactly(4) == b"hell"
            sessions[0].interrupt(Error.up(HTTPStatus(504), "too late"))
            assert await client.is_closed_by_server()
            await winning.all_closed()


async def test_a_server_that_is_killed_ends_both(slow: Origin) -> None:
    """The request's task is cancelled by somebody else, and that counts."""
    tasks: list[asyncio.Task[object]] = []

    class Keeping(HedgingProxy):
        async def upstream_peer(self, session: Session, ctx: RigContext) -> HttpPeer:
            task = asyncio.current_task()
            assert task is not None
            tasks.append(task)
            return await super().upstream_peer(session, ctx)

    async with Origin(hang) as first:
        app = Keeping(first.address, slow.address)
        async with RunningProxy(app) as proxy, await proxy.connect() as client:
            await client.send_request()
            await slow.requests_arrived()
            tasks[0].cancel()
            await eventually(tasks[0].cancelled)
            await first.all_closed()
            await slow.all_closed()


# ----------------------------------------------------------------------------------- HTTP/2


def _h2(address: str) -> HttpPeer:
    peer = HttpPeer(address)
    peer.options.alpn = ALPN.H2
    return peer


async def test_the_stream_of_an_http2_loser_is_reset() -> None:
    """With CANCEL; its connection serves the next request."""

    async def handler(exchange: H2Exchange) -> None:
        if exchange.request is origin.requests[0]:
            await exchange.passed("never")
        await answer(b"first")(exchange)

    async with StrictH2Origin(handler) as origin, StrictH2Origin(answer(b"second")) as second:
        app = HedgingProxy(_h2(origin.address), _h2(second.address))
        app.first_is_there = lambda: origin.requests
        async with RunningProxy(app) as proxy, await proxy.connect() as client:
            assert (await client.request()).body == b"second"
            await eventually(lambda: origin.requests[0].reset == Code.CANCEL)
            app.delay = _NEVER
            assert (await client.request()).body == b"first"
            assert len(origin.connections) == 1
        origin.open("never")
        assert origin.violations == second.violations == []


async def test_both_tries_on_one_http2_connection() -> None:
    """One peer for both: two streams, one of which is reset."""

    async def handler(exchange: H2Exchange) -> None:
        if exchange.request is origin.requests[0]:
            await exchange.passed("never")
        await answer(b"second")(exchange)

    async with StrictH2Origin(handler) as origin:
        peer = _h2(origin.address)
        app = HedgingProxy(peer, peer)
        app.first_is_there = lambda: origin.requests
        async with RunningProxy(app) as proxy, await proxy.connect() as client:
            assert (await client.request()).body == b"second"
            await eventually(lambda: origin.requests[0].reset == Code.CANCEL)
        origin.open("never")
        assert (len(origin.connections), origin.violations) == (1, [])
