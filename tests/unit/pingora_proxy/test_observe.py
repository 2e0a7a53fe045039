"""Observers are told each step of each request, once, in order, and cannot disturb it."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING

import pytest

from pingora_core.upstreams import HttpPeer
from pingora_proxy import Hedge, HttpProxy
from pingora_proxy.observe import Observers, ProxyObserver
from tests.support.client import RawClient
from tests.support.origin import Origin
from tests.support.origin_steps import hang, reply, reset, sequence, wait
from tests.support.proxy import BareProxy, RigProxy, RunningProxy
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pingora_error import Error
    from pingora_http import RequestHeader
    from pingora_proxy import HedgePlan, Session
    from pingora_proxy.observe import AttemptRecord, RequestRecord
    from tests.support.proxy import RigContext


class Witness(ProxyObserver):
    """Takes down what it is told.

    Attributes:
        told: Names of the calls, in order.
        records: Of the requests that have ended.
        errors: Why these have failed.
    """

    def __init__(self, log: list[str] | None = None, name: str = "") -> None:
        self.told = [] if log is None else log
        self.name = name
        self.records: list[RequestRecord] = []
        self.errors: list[Error | None] = []

    def _note(self, what: str) -> None:
        self.told.append(f"{self.name}{what}")

    def request_started(self, session: Session) -> None:
        self._note(f"started {session.req_header.method}")

    def attempt_started(self, session: Session, attempt: AttemptRecord) -> None:
        self._note("attempt")

    def upstream_request(
        self, session: Session, attempt: AttemptRecord, request: RequestHeader
    ) -> None:
        request.insert_header("X-Seen", "yes")
        self._note("head")

    def attempt_ended(self, session: Session, attempt: AttemptRecord) -> None:
        self._note(f"attempt ended {attempt.status}")

    def request_ended(self, session: Session, error: Error | None) -> None:
        response = session.response_written
        self._note(f"ended {None if response is None else response.status}")
        assert session.record is not None
        self.records.append(session.record)
        self.errors.append(error)


class Failing(ProxyObserver):
    """Raises whatever it is told."""

    def request_started(self, session: Session) -> None:
        msg = "on purpose"
        raise RuntimeError(msg)

    def request_ended(self, session: Session, error: Error | None) -> None:
        raise KeyError("on purpose")


class Retrying(RigProxy):
    """Tries again at the second origin what has failed at the first."""

    def __init__(self, first: str, second: str) -> None:
        addresses = iter((first, second))
        super().__init__(lambda _: HttpPeer(next(addresses)))

    async def fail_to_connect(
        self, session: Session, peer: HttpPeer, ctx: RigContext, error: Error
    ) -> Error:
        error.set_retry(True)
        return error


class Hedging(RigProxy):
    """Asks a second origin when the first one takes long."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)
        self.second = second

    def hedge_request(self, session: Session, peer: HttpPeer, ctx: RigContext) -> HedgePlan | None:
        async def choose() -> HttpPeer:
            return HttpPeer(self.second)

        return Hedge(0.01, choose)


@pytest.fixture
def dead() -> Iterator[str]:
    """An address at which nobody listens."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{closed.getsockname()[1]}"


async def get(address: str, target: str = "/") -> int:
    async with await RawClient.connect(address) as client:
        return (await client.request("GET", target)).status


async def test_each_step_is_told_in_order_to_each_observer() -> None:
    """With times that grow; what was done to the upstream's head is what it gets."""
    log: list[str] = []
    first, second = Witness(log, "1 "), Witness(log, "2 ")
    async with Origin(reply(body=b"ok")) as origin:
        async with RunningProxy(RigProxy(origin), observers=[first, second]) as proxy:
            assert await get(proxy.address) == 200
        assert origin.requests[0].get("x-seen") == "yes"

    steps = ["started GET", "attempt", "head", "attempt ended 200", "ended 200"]
    assert log == [f"{number} {step}" for step in steps for number in (1, 2)]
    (record,) = first.records
    assert record is second.records[0]
    (attempt,) = record.attempts
    assert attempt.connected is not None
    assert attempt.head is not None
    assert attempt.ended is not None
    assert record.ended is not None
    times = [
        record.started,
        attempt.started,
        attempt.connected,
        attempt.head,
        attempt.ended,
        record.ended,
    ]
    assert times == sorted(times)
    assert (attempt.reused, attempt.status, attempt.error) == (False, 200, None)
    assert attempt.digest is not None
    assert first.errors == [None]


async def test_without_observers_nothing_is_kept() -> None:
    """No record is made, and the short way to the upstream is taken."""
    seen: list[object] = []

    class Looking(BareProxy):
        async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
            seen.append(session.record)
            return await super().upstream_peer(session, ctx)

    async with Origin(reply()) as origin, RunningProxy(Looking(origin)) as proxy:
        assert await get(proxy.address) == 200
        assert proxy.service.app_logic.observers is None
    assert seen == [None]


async def test_an_observer_that_fails_is_counted_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The request and the other observers do not notice; the log has it now and then."""
    witness = Witness()
    with caplog.at_level(logging.ERROR, logger="pingora_proxy.observe"):
        async with (
            Origin(reply()) as origin,
            RunningProxy(RigProxy(origin), observers=[Failing(), witness]) as proxy,
        ):
            for _ in range(5):
                assert await get(proxy.address) == 200
            observers = proxy.service.app_logic.observers
            assert observers is not None
            await eventually(lambda: observers.failures == 10)
    assert len(witness.records) == 5
    assert len(caplog.records) == 4  # the 1st, 2nd, 4th and 8th


async def test_what_cannot_be_understood_is_told_as_well() -> None:
    """A malformed request has a placeholder for a head, no attempts, and an error."""
    witness = Witness()
    async with RunningProxy(RigProxy("127.0.0.1:9"), observers=[witness]) as proxy:
        async with await RawClient.connect(proxy.address) as client:
            await client.send(b"GET / HTTP/1.1\r\nbad line\r\n\r\n")
            assert (await client.read_response()).status == 400
        # A client that says nothing has made no request.
        async with await RawClient.connect(proxy.address):
            pass
    assert witness.told == ["started -", "ended 400"]
    assert witness.records[0].attempts == []
    assert witness.errors[0] is not None


async def test_a_retry_is_a_second_attempt(dead: str) -> None:
    """Each attempt ends before the next begins; the first one never had a connection."""
    witness = Witness()
    async with (
        Origin(reply()) as origin,
        RunningProxy(Retrying(dead, origin.address), observers=[witness]) as proxy,
    ):
        assert await get(proxy.address) == 200

    assert witness.told == [
        "started GET",
        "attempt",
        "attempt ended None",
        "attempt",
        "head",
        "attempt ended 200",
        "ended 200",
    ]
    failed, good = witness.records[0].attempts
    assert failed.error is not None
    assert (failed.connected, failed.reused, failed.digest) == (None, None, None)
    assert good.error is None


async def test_both_tries_of_a_hedged_request_are_told() -> None:
    """The loser too, and before the request ends; a connection of the pool is known as one."""
    witness = Witness()
    async with (
        Origin(sequence(wait("never"), hang)) as slow,
        Origin(reply(body=b"second")) as fast,
        RunningProxy(Hedging(slow.address, fast.address), observers=[witness]) as proxy,
    ):
        assert await get(proxy.address) == 200
        assert await get(proxy.address) == 200

    for record in witness.records:
        lost, won = record.attempts
        assert (str(lost.peer.address), str(won.peer.address)) == (slow.address, fast.address)
        assert (lost.status, won.status) == (None, 200)
        assert lost.ended is not None
        assert won.ended is not None
        assert record.ended is not None
        assert max(lost.ended, won.ended) <= record.ended
    assert [record.attempts[1].reused for record in witness.records] == [False, True]
    assert witness.told.count("attempt") == witness.told.count("attempt ended None") * 2 == 4


async def test_a_request_that_nobody_waits_for_ends_too() -> None:
    """A client that goes away, an upstream that resets: one ending each, with the error."""
    witness = Witness()
    async with (
        Origin(hang) as origin,
        RunningProxy(RigProxy(origin), observers=[witness]) as proxy,
    ):
        async with await RawClient.connect(proxy.address) as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await origin.requests_arrived()
        await eventually(lambda: len(witness.errors) == 1)
    assert witness.told[-1] == "ended None"
    assert witness.errors[0] is not None
    async with (
        Origin(reset) as origin,
        RunningProxy(RigProxy(origin), observers=[witness]) as proxy,
    ):
        assert await get(proxy.address) == 502
    assert witness.errors[1] is not None
    assert witness.records[1].attempts[0].error is not None


async def test_each_request_of_a_connection_has_a_record_of_its_own() -> None:
    """Also those in flight at the same time."""
    witness = Witness()
    async with (
        Origin(sequence(wait("go"), reply())) as origin,
        RunningProxy(RigProxy(origin), observers=[witness]) as proxy,
    ):
        asked = [asyncio.create_task(get(proxy.address)) for _ in range(3)]
        await origin.requests_arrived(3)
        assert witness.told.count("started GET") == 3
        assert witness.records == []
        origin.open("go", 3)
        assert await asyncio.gather(*asked) == [200] * 3
        await eventually(lambda: len(witness.records) == 3)
    assert len({id(record) for record in witness.records}) == 3
    assert witness.records[0].started_at > 1e9
    witness.records[0].state["mine"] = 1
    assert witness.records[1].state == {}


def test_only_what_is_overridden_is_called() -> None:
    """An observer that overrides nothing costs nothing but the record."""
    observers = Observers([ProxyObserver(), Failing()])

    assert len(observers._request_started) == len(observers._request_ended) == 1
    assert not observers._attempt_started
    assert not observers._upstream_request
    assert HttpProxy(BareProxy("127.0.0.1:9")).observers is None
