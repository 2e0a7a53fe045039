"""What is done at the end of a request: the page that is left, the error log, `logging`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeAlias

from pingora_error import Error, ErrorType
from pingora_proxy.outcome import FailToProxy
from pingora_proxy.status import default_status

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_core.apps.load_shedding import LoadShedder
    from pingora_core.protocols.http.server import ServerSession
    from pingora_proxy.hooks import CTX, ProxyHttp
    from pingora_proxy.observe import Observers
    from pingora_proxy.session import Session

__all__ = [
    "Persist",
    "answer_without_context",
    "finish",
    "finish_now",
    "log_error",
    "plain_page",
    "refuse",
    "tell_logging",
]

Persist: TypeAlias = "Callable[[Session, CTX], object | None]"
"""Of ``persist_connection_context``."""

_logger = logging.getLogger("pingora_proxy.proxy")


async def plain_page(session: Session, error: Error) -> FailToProxy:
    """Answer an error for which ``fail_to_proxy`` has failed as well.

    Args:
        session: The request.
        error: What happened first.

    Returns:
        What was answered.
    """
    code = default_status(error) or 500
    try:
        await session.respond_error(code)
    except Error:
        code = 0
    return FailToProxy(error_code=code)


async def answer_without_context(session: Session, error: Error) -> bool:
    """Answer and log a request for which there is no context, so that no callback can run.

    Args:
        session: The request.
        error: Why there is none.

    Returns:
        False: the connection is not used again.
    """
    if session.record is not None:
        session.record.failed_in = "new_ctx"
    outcome = await plain_page(session, error)
    down = session.downstream_session
    log_error(error, outcome.error_code, phase="new_ctx", summary=down.request_summary)
    if outcome.error_code == 0:
        down.shutdown()
    else:
        await down.finish()
    return False


async def refuse(
    shedder: LoadShedder,
    down: ServerSession,
    observers: Observers | None,
    new_session: Callable[[], Session],
) -> bool:
    """Answer a request that is too many, of which observers are told as of any other.

    Args:
        shedder: Has given no permit.
        down: The client's side.
        observers: They, if there are any.
        new_session: Makes what they see.

    Returns:
        Whether the connection can carry another request.
    """
    if observers is None:
        return await shedder.refuse(down)
    session = new_session()
    session.phase = "load shedding"
    record = observers.request_started(session)
    try:
        return await shedder.refuse(down)
    finally:
        observers.request_ended(session, record, None)


def log_error(error: Error, status: int, *, phase: str, summary: Callable[[], str]) -> None:
    """Write a line for a request that has failed for good.

    Args:
        error: Why.
        status: What was answered; 0 for nothing.
        phase: Where it happened.
        summary: Says which request it was; asked only if the line is written.
    """
    # A client that went away is nobody's fault here, and common.
    level = logging.ERROR if status else logging.INFO
    if not _logger.isEnabledFor(level):
        return
    _logger.log(
        level,
        "Fail to proxy: %s, status: %d, retry: false, phase: %s, %s",
        error,
        status,
        phase,
        summary(),
        exc_info=error.root_cause if error.root_etype is ErrorType.INTERNAL_ERROR else None,
    )


async def tell_logging(
    app: ProxyHttp[CTX], session: Session, error: Error | None, ctx: CTX
) -> None:
    """Call ``logging``, and survive it.

    Args:
        app: The user's object.
        session: The request.
        error: Why it failed; None if it did not.
        ctx: The user's context.
    """
    session.phase = "logging"
    try:
        await app.logging(session, error, ctx)
    except Exception as second:
        _logger.error("logging failed: %s", second, exc_info=second)


def finish_now(session: Session, ctx: CTX, persist: Persist[CTX] | None) -> bool | None:
    """End an exchange with a client, if that can be done without waiting, as mostly it can.

    Args:
        session: The request.
        ctx: The user's context.
        persist: ``persist_connection_context``, if it is overridden.

    Returns:
        Whether the connection can carry another exchange; None if `finish` must be awaited.
    """
    downstream = session.downstream_session
    try:
        reusable = downstream.finish_now()
    except Error as late:
        return _given_up(downstream, late)
    if reusable and persist is not None:
        downstream.connection_context = persist(session, ctx)
    return reusable


async def finish(session: Session, ctx: CTX, persist: Persist[CTX] | None) -> bool:
    """End an exchange with a client.

    Args:
        session: The request.
        ctx: The user's context.
        persist: ``persist_connection_context``, if it is overridden.

    Returns:
        Whether the connection can carry another exchange.
    """
    downstream = session.downstream_session
    try:
        reusable = await downstream.finish()
    except Error as late:
        return _given_up(downstream, late)
    if reusable and persist is not None:
        downstream.connection_context = persist(session, ctx)
    return reusable


def _given_up(downstream: ServerSession, late: Error) -> bool:
    _logger.debug("a response could not be completed: %s", late)
    downstream.shutdown()
    return False
