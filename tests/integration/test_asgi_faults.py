"""What becomes of the faults of an ASGI application: answered, counted, logged once; others go on.

How each is answered was compared with uvicorn 0.54.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from pingora_core.metrics import Registry
from pingora_core.metrics.exposition import render
from pingora_error import Error
from pingora_proxy.asgi import AsgiOptions, asgi_source
from pingora_proxy.testing import RunningProxy
from tests.support.asgi import START, body, make, sending, serving, start
from tests.support.client import RawClient
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pingora_proxy.asgi import Message, Receive, Scope, Send


class _OwnError(BaseException):
    """Not even an Exception."""


async def _raises(error: BaseException) -> None:
    raise error


async def _cancels_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


FAULTS: dict[str, tuple[str, tuple[Message, ...]]] = {
    "unanswered": ("unanswered", ()),
    "started twice": ("protocol", (START, START)),
    "a body first": ("protocol", (body(),)),
    "an informational status": ("protocol", (start(status=101),)),
    "text for a header": ("protocol", ({**START, "headers": [("a", "b")]},)),
    "a number for a header": ("protocol", ({**START, "headers": [(b"a", 3)]},)),
    "three parts of a header": ("protocol", ({**START, "headers": [(b"a", b"b", b"c")]},)),
    "no list of headers": ("protocol", ({**START, "headers": 3},)),
    "a split response": ("protocol", (start((b"a", b"b\r\nSet-Cookie: c=d")),)),
    "a name that is none": ("protocol", (start((b"a b", b"c")),)),
    "a pseudo header": ("protocol", (start((b":status", b"200")),)),
    "a text for a body": ("protocol", (START, body("text"))),
    "a longer body": ("protocol", (start((b"content-length", b"2")), body(b"abc"))),
    "a shorter body": ("protocol", (start((b"content-length", b"9")), body(b"abc"))),
    "two lengths": (
        "protocol",
        (start((b"content-length", b"3"), (b"content-length", b"4")), body(b"abc")),
    ),
    "no message": ("protocol", ({"type": "http.nonsense"},)),
    "trailers unannounced": ("protocol", ({"type": "http.response.trailers"},)),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_a_breach_of_the_protocol_is_a_500(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing of the response is sent; it is counted and logged once; the next request is served."""
    kind, messages = FAULTS[name]

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages if scope["path"] == "/" else (START, body(b"fine")):
            await send(message)

    application, server = serving(make(answer))
    async with RunningProxy(server) as proxy:
        answer_to_fault = await proxy.get()
        assert (answer_to_fault.status, answer_to_fault.body) == (500, b"")
        assert answer_to_fault.header.get("set-cookie") is None
        assert (await proxy.get("/fine")).text == "fine"
    assert {key: n for key, n in application.failure_counts.items() if n} == {kind: 1}
    assert sum(record.levelno >= logging.ERROR for record in caplog.records) == 1


RAISED: dict[str, Callable[[], Awaitable[None]]] = {
    "an exception": lambda: _raises(RuntimeError("on purpose")),
    "no exception": lambda: _raises(_OwnError()),
    "an exit": lambda: _raises(SystemExit(3)),
    "a cancellation": lambda: _raises(asyncio.CancelledError()),
    "a cancellation of itself": _cancels_itself,
}


@pytest.mark.parametrize("kind", RAISED)
@pytest.mark.parametrize("when", ["before", "within", "after"])
async def test_whatever_an_application_raises_hurts_nobody_else(
    kind: str, when: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A 500 before the response, a cut within, nothing after; each is counted and logged once."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/fine":
            await send(START)
            await send(body(b"fine"))
            return
        if when != "before":
            await send(START)
            await send(body(b"x", more=when == "within"))
        await RAISED[kind]()

    application, server = serving(make(answer))
    async with RunningProxy(server) as proxy:
        match when:
            case "before":
                assert (await proxy.get()).status == 500
            case "within":
                with pytest.raises(Error):
                    await proxy.get()
            case _:
                assert (await proxy.get()).text == "x"
        assert (await proxy.get("/fine")).text == "fine"
        await eventually(lambda: not application.running)
    logged = [record for record in caplog.records if record.levelno >= logging.ERROR]
    # To be cancelled once all is said is no fault.
    expected = 0 if when == "after" and "cancel" in kind else 1
    assert application.failure_counts["raised"] == application.failures == expected
    assert len([record for record in logged if record.exc_info]) == expected


@pytest.mark.parametrize("heeds", [True, False])
async def test_an_application_that_hangs_is_a_504(heeds: bool) -> None:
    """It is cancelled; one that does not heed even that is not waited for."""
    release = asyncio.Event()

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await release.wait()
        except asyncio.CancelledError:
            if heeds:
                raise
            await release.wait()

    application, server = serving(make(answer), AsgiOptions(response_timeout=0.05))
    async with RunningProxy(server) as proxy:
        assert (await proxy.get()).status == 504
        assert application.failure_counts["timeout"] == 1
        assert application.running == (0 if heeds else 1)
        release.set()


async def test_a_slow_upload_does_not_count_as_a_hang() -> None:
    """While the application waits for the client, its own deadline stands still."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["more_body"]:
            pass
        await send(START)
        await send(body(b"thanks"))

    application, server = serving(make(answer), AsgiOptions(response_timeout=0.3))
    async with RunningProxy(server) as proxy, await RawClient.connect(proxy.address) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 8\r\n\r\n")
        for letter in b"abcdefgh":
            await asyncio.sleep(0.05)
            await client.send(bytes([letter]))
        assert (await client.read_response()).body == b"thanks"
    assert application.failures == 0


async def test_failures_are_metrics() -> None:
    """By application and by kind."""
    registry = Registry()
    application, server = serving(sending())
    registry.add_source(asgi_source(application, "api"))
    async with RunningProxy(server) as proxy:
        assert (await proxy.get()).status == 500
    text = b"".join(render(registry.collect())).decode()
    assert 'pingora_asgi_failures_total{application="api",kind="unanswered"} 1' in text
