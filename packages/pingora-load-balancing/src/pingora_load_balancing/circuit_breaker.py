"""Circuit breakers: how much one backend is given at a time.

Theory of operation: a backend that has become slow piles up requests until it, and then everybody
who waits for it, has nothing left. A breaker refuses what exceeds a limit, at once, so that the
request can go elsewhere or fail quickly. Nothing ever waits in a breaker.

There is one account per address that has requests on their way; an idle backend costs nothing. A
backend that would be refused is marked open in the pool, so that selections pass over it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

from pingora_error import CustomCode, Error, ErrorSource, HTTPStatus

if TYPE_CHECKING:
    from typing import Self

    from pingora_core.upstreams.peer import PeerAddress
    from pingora_load_balancing.backend import Backend
    from pingora_load_balancing.backends import Backends

__all__ = ["CIRCUIT_OPEN", "BreakerAccount", "BreakerLimits", "CircuitBreaker", "Permit"]

CIRCUIT_OPEN: Final = CustomCode("CircuitOpen", 503)
"""The ``root_etype`` of the errors by which a circuit breaker refuses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerLimits:
    """What a backend may have at the same time; None for no limit.

    Attributes:
        max_connections: Connections in use. A request that has leave is counted as one, or as its
            part of one. Idle ones are used first, so there are no more of these either as long as
            all peers of the backend are alike; the connector bounds them too.
        max_pending: Requests that have no connection yet.
        max_requests: Requests on their way, pending ones included.
        max_retries: Retries among these.
        requests_per_connection: How many requests share a connection: 1 with HTTP/1, and what the
            peers' ``max_h2_streams`` says with HTTP/2.

    Raises:
        ValueError: If a number is less than 1; 0 is allowed for retries.

    Source: Envoy, api/envoy/config/cluster/v3/circuit_breaker.proto, with the same defaults. There
    they hold for a cluster, here for each backend.
    """

    max_connections: int | None = 1024
    max_pending: int | None = 1024
    max_requests: int | None = 1024
    max_retries: int | None = 3
    requests_per_connection: int = 1

    def __post_init__(self) -> None:
        for name, least in (
            ("max_connections", 1),
            ("max_pending", 1),
            ("max_requests", 1),
            ("max_retries", 0),
            ("requests_per_connection", 1),
        ):
            value: int | None = getattr(self, name)
            if value is not None and value < least:
                msg = f"circuit breaker: {name} must be at least {least}, not {value}"
                raise ValueError(msg)


@final
class BreakerAccount:
    """What one backend has at the moment.

    Attributes:
        address: Of the backend.
        pending: Requests that have no connection yet.
        requests: Requests on their way, pending ones included.
        retries: Retries among these.
        is_open: Whether another request would be refused, whatever it is.
    """

    __slots__ = ("address", "is_open", "pending", "requests", "retries")

    def __init__(self, address: PeerAddress) -> None:
        self.address: PeerAddress = address
        self.pending: int = 0
        self.requests: int = 0
        self.retries: int = 0
        self.is_open: bool = False

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.address}: {self.requests} requests,"
            f" {self.pending} of them pending, {self.retries} of them retries>"
        )


@final
class Permit:
    """Leave to send one request to a backend, until it is released.

    Args:
        breaker: What has given it.
        backend: Where the request may go.
        account: What the backend has to do already.
        is_retry: Whether the request is a retry.

    Attributes:
        backend: Where it may go.
    """

    __slots__ = ("_account", "_breaker", "_is_held", "_is_pending", "_is_retry", "backend")

    def __init__(
        self, breaker: CircuitBreaker, backend: Backend, account: BreakerAccount, *, is_retry: bool
    ) -> None:
        self._account = account
        self._breaker = breaker
        self._is_retry = is_retry
        self._is_pending = self._is_held = True
        self.backend: Backend = backend
        account.pending += 1
        account.requests += 1
        if is_retry:
            account.retries += 1
        breaker.note(account)

    def connected(self) -> None:
        """Tell that the request has a connection; again does nothing."""
        if self._is_pending:
            self._is_pending = False
            self._account.pending -= 1
            self._breaker.note(self._account)

    def release(self) -> None:
        """Tell that the request is done, or given up; again does nothing."""
        if self._is_held:
            account = self._account
            self._is_held = False
            if self._is_pending:
                self._is_pending = False
                account.pending -= 1
            if self._is_retry:
                account.retries -= 1
            account.requests -= 1
            self._breaker.note(account)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@final
class CircuitBreaker:
    """Bounds what each backend of a pool is given at a time.

    Each process counts for itself: with several workers, divide. Not for use from several threads
    at once.

    Args:
        pool: The pool, in which backends that would be refused are marked open.
        limits: What a backend may have at the same time.

    Attributes:
        pool: As given.
        limits: As given.
        refused: How often a request was refused so far.
        open: How many backends would be refused now.

    Examples:
        >>> pool = Backends(["10.0.0.1:80"])
        >>> breaker = CircuitBreaker(pool, BreakerLimits(max_requests=1))
        >>> with breaker.acquire(pool.current[0]):
        ...     print(breaker.try_acquire(pool.current[0]), pool.is_ready(pool.current[0].addr))
        None False
    """

    __slots__ = ("_accounts", "_most", "_most_pending", "limits", "open", "pool", "refused")

    def __init__(self, pool: Backends, limits: BreakerLimits | None = None) -> None:
        self.pool: Backends = pool
        limits = BreakerLimits() if limits is None else limits
        self.limits: BreakerLimits = limits
        self.refused: int = 0
        self.open: int = 0
        self._most = min(
            _or_infinite(limits.max_requests),
            _or_infinite(limits.max_connections) * limits.requests_per_connection,
        )
        self._most_pending = _or_infinite(limits.max_pending)
        self._accounts: dict[PeerAddress, BreakerAccount] = {}

    def __repr__(self) -> str:
        busy = len(self._accounts)
        return f"<{type(self).__name__} {busy} backends in use, {self.refused} refused>"

    def acquire(self, backend: Backend, *, is_retry: bool = False) -> Permit:
        """Ask leave to send a request; never waits.

        Args:
            backend: Where to; its address counts.
            is_retry: Whether the request was sent before.

        Returns:
            What to release, best as a context manager.

        Raises:
            Error: ``HTTPStatus(503)`` with `CIRCUIT_OPEN` as its root; another backend may do.
        """
        permit = self.try_acquire(backend, is_retry=is_retry)
        if permit is None:
            account = self._accounts.get(backend.addr) or BreakerAccount(backend.addr)
            limit = self._limit_met(account)
            why = Error.internal(CIRCUIT_OPEN, f"{backend} is at its {limit}: {account}")
            raise Error(HTTPStatus(503), source=ErrorSource.INTERNAL, cause=why)
        return permit

    def try_acquire(self, backend: Backend, *, is_retry: bool = False) -> Permit | None:
        """Ask leave to send a request; never waits. HOT: once per attempt.

        Args:
            backend: Where to; its address counts.
            is_retry: Whether the request was sent before.

        Returns:
            What to release; None if it is refused.
        """
        account = self._accounts.get(backend.addr)
        if account is None:
            account = BreakerAccount(backend.addr)
        if account.is_open or (
            is_retry and account.retries >= _or_infinite(self.limits.max_retries)
        ):
            self.refused += 1
            return None
        if not account.requests:
            self._accounts[backend.addr] = account
        return Permit(self, backend, account, is_retry=is_retry)

    def account(self, address: PeerAddress) -> BreakerAccount | None:
        """Look up what a backend has now.

        Args:
            address: Of the backend.

        Returns:
            The figures, which change as it does; None if it has nothing.
        """
        return self._accounts.get(address)

    def note(self, account: BreakerAccount) -> None:
        """Take note that an account has changed; permits call this, nobody else.

        Args:
            account: The account; forgotten when it has no requests any more.
        """
        is_open = account.requests >= self._most or account.pending >= self._most_pending
        if is_open is not account.is_open:
            account.is_open = is_open
            self.open += 1 if is_open else -1
            self.pool.set_open(account.address, is_open)
        if not account.requests:
            del self._accounts[account.address]

    def _limit_met(self, account: BreakerAccount) -> str:
        if not account.is_open:
            return "max_retries"
        if account.pending >= self._most_pending:
            return "max_pending"
        if account.requests >= _or_infinite(self.limits.max_requests):
            return "max_requests"
        return "max_connections"


def _or_infinite(limit: int | None) -> float:
    return math.inf if limit is None else limit
