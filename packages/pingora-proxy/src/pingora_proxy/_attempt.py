"""The parts of an attempt that are the same whether it is hedged or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pingora_error import Error, RetryType
from pingora_proxy._user_errors import as_error

if TYPE_CHECKING:
    from pingora_core.connectors.http.connector import Connector
    from pingora_core.protocols.http.client import ClientSession
    from pingora_core.upstreams.peer import HttpPeer
    from pingora_proxy.hooks import CTX, ProxyHttp
    from pingora_proxy.session import Session

__all__ = ["IDEMPOTENT_METHODS", "connect", "judge"]

IDEMPOTENT_METHODS: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})
"""Methods whose requests may be executed twice: RFC 9110 section 9.2.2."""


async def connect(
    app: ProxyHttp[CTX], connector: Connector, session: Session, *, peer: HttpPeer, ctx: CTX
) -> ClientSession:
    """Connect to a peer for a request.

    Args:
        app: The user's object; judges a failure.
        connector: What connects.
        session: The request.
        peer: Where to.
        ctx: The user's context.

    Returns:
        The upstream's side, nothing sent yet.

    Raises:
        Error: What ``fail_to_connect`` makes of the failure.
    """
    session.phase = "connect"
    try:
        return await connector.new_http_session(
            peer, upgrade=session.downstream_session.is_upgrade_request
        )
    except Error as error:
        session.phase = "fail_to_connect"
        judged = await app.fail_to_connect(session, peer, ctx, error.as_up())
        session.phase = "connect"
        raise judged from judged.cause


async def judge(
    app: ProxyHttp[CTX],
    session: Session,
    upstream: ClientSession,
    error: Exception,
    *,
    peer: HttpPeer,
    ctx: CTX,
    reused: bool,
) -> Error:
    """Have ``error_while_proxy`` judge what an attempt has failed with.

    Args:
        app: The user's object.
        session: The request.
        upstream: The upstream's side.
        error: What happened, anywhere; a callback may have raised anything.
        peer: Where the attempt went.
        ctx: The user's context.
        reused: Whether the connection came from the pool.

    Returns:
        The error that counts.
    """
    phase = session.phase
    own = as_error(error, phase)
    if (
        own.retry is RetryType.REUSED_ONLY
        and upstream.request_sent
        and session.req_header.raw_method not in IDEMPOTENT_METHODS
    ):
        # A dead reused connection: a second execution might do harm.
        own.set_retry(False)
    session.phase = "error_while_proxy"
    judged = await app.error_while_proxy(peer, session, own, ctx, reused)
    session.phase = phase
    return judged
