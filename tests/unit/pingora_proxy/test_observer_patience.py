"""Observers that are patient are told of ends a moment later, several at a time, and of all of them."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from pingora_proxy.observe import Observers, ProxyObserver
from pingora_proxy.testing import make_session
from tests.support.client import RawClient
from tests.support.origin import Origin
from tests.support.origin_steps import reply
from tests.support.proxy import RigProxy, RunningProxy

if TYPE_CHECKING:
    from pingora_error import Error
    from pingora_proxy import Session


class _Told(ProxyObserver):
    def __init__(self, told: list[str], name: str) -> None:
        self.told = told
        self.name = name

    def request_ended(self, session: Session, error: Error | None) -> None:
        record = session.record
        assert record is not None
        assert record.ended is not None
        status = 0 if record.response is None else record.response.status
        self.told.append(f"{self.name} {session.req_header.path} {status} {record.response_bytes}")


class _Patient(_Told):
    is_patient = True


class _Broken(ProxyObserver):
    is_patient = True

    def request_ended(self, session: Session, error: Error | None) -> None:
        raise RuntimeError("on purpose")


def _end(observers: Observers, path: str) -> None:
    session = make_session("GET", path)
    observers.request_ended(session, observers.request_started(session), None)


@pytest.mark.parametrize("with_others", [False, True])
async def test_they_are_told_in_the_next_turn(*, with_others: bool) -> None:
    """Of all that have ended in this one, in order; those who are not patient hear it at once."""
    told: list[str] = []
    others = [_Told(told, "now")] if with_others else []
    observers = Observers([_Patient(told, "late"), *others])
    for path in ("/a", "/b"):
        _end(observers, path)
    now = [f"now {path} 0 0" for path in ("/a", "/b")] if with_others else []
    assert told == now
    await asyncio.sleep(0)
    late = [f"late {path} 0 0" for path in ("/a", "/b")]
    assert told == [*now, *late]

    _end(observers, "/c")
    await asyncio.sleep(0)
    assert told[-1] == "late /c 0 0"


async def test_what_one_raises_is_counted_for_each_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The other observers, and the other requests of the turn, do not notice."""
    told: list[str] = []
    observers = Observers([_Broken(), _Patient(told, "late")])
    with caplog.at_level(logging.ERROR, logger="pingora_proxy.observe"):
        for path in ("/a", "/b", "/c"):
            _end(observers, path)
        await asyncio.sleep(0)
    assert observers.failures == 3
    assert len(caplog.records) == 2  # the 1st and the 2nd
    assert told == ["late /a 0 0", "late /b 0 0", "late /c 0 0"]


async def test_the_end_of_a_service_forgets_nobody() -> None:
    """Who is to be told in the next turn is told before the observers end."""
    told: list[str] = []

    class Ending(_Patient):
        async def cleanup(self) -> None:
            self.told.append("cleanup")

    observers = Observers([Ending(told, "late")])
    await observers.startup()
    _end(observers, "/a")
    await observers.cleanup()
    assert told == ["late /a 0 0", "cleanup"]


async def test_it_is_told_before_the_client_can_ask_for_more() -> None:
    """What was answered is in the numbers when the next request is; a reused connection took 0 s."""
    told: list[str] = []
    connects: list[float | None] = []

    class Looking(_Patient):
        def request_ended(self, session: Session, error: Error | None) -> None:
            super().request_ended(session, error)
            assert session.record is not None
            (attempt,) = session.record.attempts
            connects.append((attempt.connected or 0.0) - attempt.started)

    async with (
        Origin(reply(body=b"body")) as origin,
        RunningProxy(RigProxy(origin), observers=[Looking(told, "late")]) as proxy,
        await RawClient.connect(proxy.address) as client,
    ):
        for number in range(3):
            assert (await client.request("GET", f"/{number}")).status == 200
            assert told[-1] == f"late /{number} 200 4"
    assert connects[0] is not None
    assert connects[0] > 0
    assert connects[1:] == [0.0, 0.0]
