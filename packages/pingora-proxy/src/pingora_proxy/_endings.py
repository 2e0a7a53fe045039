"""What is done at the end of a request: the page that is left, the error log, `logging`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pingora_error import Error, ErrorType
from pingora_proxy.outcome import FailToProxy
from pingora_proxy.status import default_status

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_proxy.hooks import CTX, ProxyHttp
    from pingora_proxy.session import Session

__all__ = ["log_error", "plain_page", "tell_logging"]

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
