"""The lifespan of an ASGI application: every way to start and to stop, and those that are none."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from pingora_error import Error
from pingora_proxy.asgi import AsgiApplication, AsgiOptions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pingora_proxy.asgi import ASGIApp, Message, Receive, Scope, Send

STARTED: Message = {"type": "lifespan.startup.complete"}
STOPPED: Message = {"type": "lifespan.shutdown.complete"}
QUICK = AsgiOptions(lifespan_timeout=0.05)


def make(live: Callable[[Receive, Send], Awaitable[None]], calls: list[str]) -> ASGIApp:
    """Make an application that is nothing but a lifespan.

    Args:
        live: It.
        calls: Gets what it was called for.

    Returns:
        The application.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["asgi"] == {"version": "3.0", "spec_version": "2.0"}
        calls.append(str(scope["type"]))
        await live(receive, send)

    return app


async def proper(receive: Receive, send: Send) -> None:
    """Live as the specification says.

    Args:
        receive: The server's.
        send: The server's.
    """
    assert (await receive())["type"] == "lifespan.startup"
    await send(STARTED)
    assert (await receive())["type"] == "lifespan.shutdown"
    await send(STOPPED)


async def test_it_is_told_once_of_each() -> None:
    """Start and stop, and both again where a service is started again."""
    calls: list[str] = []
    application = AsgiApplication(make(proper, calls))
    for _ in range(2):
        await application.startup()
        await application.cleanup()
    assert calls == ["lifespan", "lifespan"]
    await application.cleanup()


async def test_off_means_that_it_is_not_told() -> None:
    """The application is not called at all."""
    calls: list[str] = []
    application = AsgiApplication(make(proper, calls), options=AsgiOptions(lifespan="off"))
    await application.startup()
    await application.cleanup()
    assert calls == []


@pytest.mark.parametrize("mode", ["auto", "on"])
@pytest.mark.parametrize("way", ["raises at once", "raises when started", "returns"])
async def test_an_application_without_a_lifespan(
    mode: str, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is tolerated unless it has to have one; what may be a bug in its start is told."""

    async def live(receive: Receive, send: Send) -> None:
        if way == "raises when started":
            await receive()
        if way != "returns":
            msg = "what is that?"
            raise KeyError(msg)

    options = AsgiOptions(lifespan="on" if mode == "on" else "auto")
    application = AsgiApplication(make(live, []), options=options)
    if mode == "on":
        with pytest.raises(Error, match="did not start"):
            await application.startup()
    else:
        await application.startup()
        warned = [each for each in caplog.records if each.levelno >= logging.WARNING]
        assert bool(warned) == (way == "raises when started")
    await application.cleanup()


async def test_what_it_says_about_its_failure_is_in_the_error() -> None:
    """Whatever it raises afterwards, as Starlette does."""

    async def live(receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})
        msg = "no database"
        raise OSError(msg)

    application = AsgiApplication(make(live, []))
    with pytest.raises(Error, match="did not start: no database"):
        await application.startup()
    await application.cleanup()


async def test_an_exit_at_the_start_is_a_failure() -> None:
    """It does not end the process on its own."""

    async def live(receive: Receive, send: Send) -> None:
        raise SystemExit(3)

    with pytest.raises(Error, match="SystemExit"):
        await AsgiApplication(make(live, [])).startup()


async def test_a_start_that_takes_too_long_is_cancelled() -> None:
    """Also where the application does not heed that."""
    release = asyncio.Event()

    async def live(receive: Receive, send: Send) -> None:
        await receive()
        await release.wait()

    application = AsgiApplication(make(live, []), options=QUICK)
    with pytest.raises(Error, match=r"did not start in 0\.05 s"):
        await application.startup()
    await application.cleanup()


async def test_a_start_that_is_broken_off_leaves_nothing_behind() -> None:
    """As when the server is told to stop meanwhile."""
    starting = asyncio.Event()

    async def live(receive: Receive, send: Send) -> None:
        await receive()
        starting.set()
        await asyncio.Event().wait()

    application = AsgiApplication(make(live, []))
    task = asyncio.create_task(application.startup())
    await starting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [each.get_name() for each in asyncio.all_tasks()].count("asgi lifespan") == 0


@pytest.mark.parametrize("way", ["says so", "raises", "hangs", "does not heed"])
async def test_a_stop_that_fails_is_logged(way: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is bounded, and ends all the same."""
    release = asyncio.Event()

    async def live(receive: Receive, send: Send) -> None:
        await receive()
        await send(STARTED)
        await receive()
        if way == "says so":
            await send({"type": "lifespan.shutdown.failed", "message": "stuck"})
        elif way == "raises":
            raise OSError(way)
        try:
            await release.wait()
        except asyncio.CancelledError:
            if way == "does not heed":
                await release.wait()

    application = AsgiApplication(make(live, []), options=QUICK)
    await application.startup()
    await application.cleanup()
    assert [each for each in caplog.records if each.levelno >= logging.ERROR]
    release.set()


async def test_a_message_that_is_none_is_refused() -> None:
    """It is not taken for the end of something."""

    async def live(receive: Receive, send: Send) -> None:
        await receive()
        with pytest.raises(Error, match="nonsense"):
            await send({"type": "lifespan.nonsense"})
        await send(STARTED)
        await receive()
        await send(STOPPED)

    application = AsgiApplication(make(live, []))
    await application.startup()
    await application.cleanup()
