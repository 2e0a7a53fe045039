"""Where an attempt goes: a backend that is ready, has room, and was not tried if possible."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_error import Error, HTTPStatus
from pingora_load_balancing.circuit_breaker import CIRCUIT_OPEN

if TYPE_CHECKING:
    from collections.abc import Collection

    from pingora_core.upstreams.peer import PeerAddress
    from pingora_load_balancing.backend import Backend
    from pingora_load_balancing.circuit_breaker import Permit
    from pingora_load_balancing.retry.failover import Failover

__all__ = ["choose_backend"]


def choose_backend(
    failover: Failover,
    key: bytes,
    tried: Collection[PeerAddress],
    *,
    is_retry: bool,
    only_untried: bool = False,
) -> tuple[Backend, Permit | None]:
    """Choose a backend, and ask the breaker for leave to use it.

    Args:
        failover: What all requests share.
        key: What to choose by.
        tried: Where the request has been.
        is_retry: Whether it has been anywhere, even if that does not count as tried.
        only_untried: Whether to do without rather than go there again.

    Returns:
        The backend, and the permit if there is a breaker.

    Raises:
        Error: ``HTTPStatus(503)`` if there is none; the root is `CIRCUIT_OPEN` if the breaker has
            refused some.
    """
    balancer = failover.balancer
    breaker = failover.breaker
    most = failover.max_iterations
    backend = None if tried else balancer.select(key, most)
    if backend is not None and breaker is None:
        return backend, None
    is_refused = False
    permit: Permit | None = None

    def accept(backend: Backend, is_ready: bool) -> bool:  # noqa: FBT001  # as asked for
        nonlocal is_refused, permit
        if not is_ready or backend.addr in tried:
            return False
        if breaker is None:
            return True
        permit = breaker.try_acquire(backend, is_retry=is_retry)
        if permit is None:
            is_refused = True
        return permit is not None

    if backend is None or not accept(backend, True):  # noqa: FBT003
        backend = balancer.select_with(key, most, accept)
    if backend is None and tried and not only_untried:
        tried = ()
        backend = balancer.select_with(key, most, accept)
    if backend is None:
        why = None
        if is_refused or (breaker is not None and breaker.open):
            why = Error.internal(CIRCUIT_OPEN, "all that are ready have enough to do")
        raise Error(HTTPStatus(503), "no backend can be used", cause=why)
    return backend, permit
