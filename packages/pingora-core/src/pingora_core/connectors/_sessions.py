"""TLS sessions that a client can resume: kept for a while, within a bound, for the same trust only.

Theory of operation. Resuming a session spares both sides the certificates, their verification and a
signature. The server is then who it was when it was verified, so a session is worth no more than
that verification was: it is kept under everything that the verification depended on, and it ends a
fixed time after it, however often it was resumed and renewed in between, and at the latest when the
certificate does.

TLS 1.3 gives out tickets, to be used once (RFC 8446 appendix C.4); they arrive some time after the
handshake. A session of TLS 1.2 is there with the handshake, and may be used many times.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

from OpenSSL import SSL

from pingora_core.protocols.tls.openssl import is_same_session

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_core.protocols.tls.verify import ReferenceIdentity
    from pingora_core.upstreams.peer import ReuseKey

__all__ = ["SESSION_LIFETIME", "SessionCache", "SessionKeeper", "StoredSession", "Trust"]

SESSION_LIFETIME: Final = 3600.0
"""Seconds from the verification of a peer on in which its sessions are resumed."""

# Tickets of one peer; a server gives out two or so per handshake.
_MAX_TICKETS: Final = 4


class Trust(NamedTuple):
    """What a verification depended on; sessions are resumed only if all of it is the same.

    Attributes:
        context: OpenSSL's context: authorities, client certificate, protocols, groups.
        key: Where the connection leads, and all keyed options.
        sni: The name that was asked for; empty for none.
        identity: Who the peer had to be; None for anybody.
    """

    context: SSL.Context
    key: ReuseKey
    sni: str
    identity: ReferenceIdentity | None


class StoredSession(NamedTuple):
    """A session that can be resumed.

    Attributes:
        session: OpenSSL's session.
        expiry: When it ends, on the clock of the cache.
        is_ticket: Whether it is a ticket of TLS 1.3, to be used once.
    """

    session: SSL.Session
    expiry: float
    is_ticket: bool


class SessionCache:
    """The sessions of a connector.

    Args:
        size: Most peers whose sessions are kept; the least recently used go first. 0 for none.
        clock: Monotonic time, seconds.
    """

    __slots__ = ("_clock", "_sessions", "_size")

    def __init__(self, size: int, clock: Callable[[], float]) -> None:
        self._size = size
        self._clock = clock
        self._sessions: OrderedDict[Trust, list[StoredSession]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._sessions.values()))

    def expiry_of(self, remaining: float) -> float:
        """Tell when the sessions of a peer end that is verified now.

        Args:
            remaining: How long its certificate is still valid, seconds.

        Returns:
            The time, on the clock of the cache.
        """
        return self._clock() + min(SESSION_LIFETIME, remaining)

    def take(self, trust: Trust) -> StoredSession | None:
        """Find a session to resume. A ticket is taken out.

        Args:
            trust: What it must have been verified by.

        Returns:
            The newest one; None if there is none.
        """
        stored = self._sessions.get(trust)
        if stored is None:
            return None
        now = self._clock()
        while stored:
            newest = stored[-1] if not stored[-1].is_ticket else stored.pop()
            if newest.expiry > now:
                if stored:
                    self._sessions.move_to_end(trust)
                else:
                    del self._sessions[trust]
                return newest
            if not newest.is_ticket:
                break
        del self._sessions[trust]
        return None

    def put(self, trust: Trust, session: StoredSession) -> None:
        """Keep a session.

        Args:
            trust: What it was verified by.
            session: The session.
        """
        if self._size == 0 or session.expiry <= self._clock():
            return
        stored = self._sessions.get(trust)
        if stored is None or not session.is_ticket:
            self._sessions[trust] = [session]
            if len(self._sessions) > self._size:
                self._sessions.popitem(last=False)
        else:
            stored.append(session)
            if len(stored) > _MAX_TICKETS:
                del stored[0]
        self._sessions.move_to_end(trust)

    def discard(self, trust: Trust) -> None:
        """Forget the sessions of a peer.

        Args:
            trust: What they were verified by.
        """
        self._sessions.pop(trust, None)

    def forget_context(self, context: SSL.Context) -> None:
        """Forget the sessions of a context that is given up, and with them the context.

        Args:
            context: OpenSSL's context.
        """
        for trust in [trust for trust in self._sessions if trust.context is context]:
            del self._sessions[trust]

    def clear(self) -> None:
        """Forget all sessions."""
        self._sessions.clear()


class SessionKeeper:
    """Puts the sessions of one connection into the cache as they come.

    Args:
        cache: The cache.
        trust: What the connection was verified by.
        connection: OpenSSL's connection, after its handshake.
        expiry: When its sessions end, on the clock of the cache.
        resumed: The session that it has resumed; None if there is none.
    """

    __slots__ = ("_cache", "_connection", "_expiry", "_last", "_trust")

    def __init__(
        self,
        cache: SessionCache,
        trust: Trust,
        connection: SSL.Connection,
        expiry: float,
        *,
        resumed: SSL.Session | None,
    ) -> None:
        self._cache = cache
        self._trust = trust
        self._connection = connection
        self._expiry = expiry
        self._last = resumed

    @property
    def uses_tickets(self) -> bool:
        """Whether sessions come after the handshake, as tickets of TLS 1.3."""
        return self._connection.get_protocol_version() >= SSL.TLS1_3_VERSION

    def store(self) -> None:
        """Put the connection's session into the cache if it is a new one."""
        session = self._connection.get_session()
        last = self._last
        if session is None or (last is not None and is_same_session(session, last)):
            return
        self._last = session
        self._cache.put(self._trust, StoredSession(session, self._expiry, self.uses_tickets))
