"""How many connections a service takes, in all and from one client address; the counts for metrics.

Theory of operation. A connection is counted when it is accepted and released when its task has ended,
whatever happened in between. At ``max_connections`` the service's endpoints stop accepting: clients
wait in the kernel's queue and are served as others leave (precedent: HAProxy's ``maxconn``), or, as an
option, are closed at once (precedent: Envoy's connection limit filter). What an event loop has accepted
already when the limit is reached, as asyncio's own does with a whole queue, waits here instead.

A client address with ``max_per_address`` connections is closed at once: it would keep its place in
any queue. An IPv6 client owns a whole network, so it is this that is counted (RFC 6177: a site gets
a /64 at least). Behind a trusted proxy that speaks the PROXY protocol it is the client that was
announced, once its header has been read. What is closed is reset, because refusing many must not
leave as many sockets in TIME_WAIT.

The counts are those of one process. They change on the event loop's thread only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias, final

from pingora_core.listeners._clients import ClientCounts
from pingora_core.runtime.log_limit import LogLimit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pingora_core.listeners._clients import ClientKey
    from pingora_core.protocols.address import InetAddress

__all__ = ["AtLimit", "ConnectionLimits", "ConnectionPermit", "Holdable", "per_worker"]

_logger = logging.getLogger(__name__)

AtLimit: TypeAlias = Literal["wait", "refuse"]
"""What happens to a connection beyond ``max_connections``."""


def per_worker(total: int, workers: int) -> int:
    """Divide a limit of the whole server among its worker processes.

    Limits hold in each process. The kernel gives each connection to any worker that accepts, so the
    shares are fair on the average only: divide what is in the hundreds, not a small number.

    Args:
        total: What the server may have; at least 1.
        workers: How many workers it has, such as ``ServerConf.worker_count``.

    Returns:
        What each of them may have: rounded up, so never 0.

    Raises:
        ValueError: If one of them is less than 1.

    Examples:
        >>> per_worker(1000, 3)
        334
    """
    if total < 1 or workers < 1:
        raise ValueError(f"at least 1 of each, not {total} among {workers}")
    return -(-total // workers)


class Holdable(Protocol):
    """Endpoints that accept, and stop for as long as there is no room."""

    def hold(self) -> None:
        """Stop accepting; clients wait."""

    def go_on(self) -> None:
        """Accept again, soon."""


@final
class ConnectionLimits:
    """Limits of a service's connections, and how many there are.

    One object may be given to several services, which then have the limits together. The limits can
    be changed at any time; what is above a lower one goes on.

    Args:
        max_connections: In all, Unix sockets included; None for no limit.
        max_per_address: From one client address; None for no limit. Clients without an IP address
            (on Unix sockets, or a proxy's own health checks) are not limited by it.
        at_limit: ``"wait"`` stops accepting at ``max_connections``, ``"refuse"`` closes what comes.
        ipv4_prefix: Leading bits that make one client of IPv4 addresses.
        ipv6_prefix: Leading bits that make one client of IPv6 addresses.
        exempt: Addresses and networks without ``max_per_address``, such as those of load balancers
            that do not speak the PROXY protocol.

    Raises:
        TypeError: If ``exempt`` is one text instead of several.
        ValueError: If a limit is less than 1, a prefix is out of range, or a network is none.

    Attributes:
        at_limit: As given.
        current: Connections that have a place: being filtered, shaking hands, served or closing.
        waiting: Connections that the event loop has accepted and that wait for a place; on uvloop
            0, but for the last ones of a service that stops.
        admitted: Connections that were let in so far.
        refused_full: Connections that were closed for ``max_connections``.
        refused_address: Connections that were closed for ``max_per_address``.
        held: How often accepting was stopped.

    Examples:
        >>> limits = ConnectionLimits(max_connections=10_000, max_per_address=100)
        >>> limits.current, limits.rejected
        (0, 0)
    """

    __slots__ = (
        "_clients",
        "_is_holding",
        "_log_limit",
        "_max_connections",
        "_max_per_address",
        "_members",
        "_queue",
        "admitted",
        "at_limit",
        "current",
        "held",
        "refused_address",
        "refused_full",
    )

    def __init__(
        self,
        *,
        max_connections: int | None = None,
        max_per_address: int | None = None,
        at_limit: AtLimit = "wait",
        ipv4_prefix: int = 32,
        ipv6_prefix: int = 64,
        exempt: Iterable[str] = (),
    ) -> None:
        if at_limit not in {"wait", "refuse"}:
            raise ValueError(f"at_limit must be 'wait' or 'refuse', not {at_limit!r}")
        self._max_connections = _checked("max_connections", max_connections)
        self._max_per_address = _checked("max_per_address", max_per_address)
        self.at_limit: Final = at_limit
        self._clients = ClientCounts(ipv4_prefix, ipv6_prefix, exempt)
        self._members: dict[Holdable, None] = {}
        # In the order in which they came.
        self._queue: dict[asyncio.Future[None], None] = {}
        self._is_holding = False
        self._log_limit = LogLimit(rate=0.2, burst=5)
        self.current: int = 0
        self.admitted: int = 0
        self.refused_full: int = 0
        self.refused_address: int = 0
        self.held: int = 0

    # ----------------------------------------------------------------- limits

    @property
    def max_connections(self) -> int | None:
        """The limit of all connections; None for none. Setting it has effect at once.

        Raises:
            ValueError: If it is less than 1.
        """
        return self._max_connections

    @max_connections.setter
    def max_connections(self, value: int | None) -> None:
        self._max_connections = _checked("max_connections", value)
        self._fill()

    @property
    def max_per_address(self) -> int | None:
        """The limit of one client's connections; None for none. Setting it holds for new ones.

        Those that are open while there is no limit are not counted by address.

        Raises:
            ValueError: If it is less than 1.
        """
        return self._max_per_address

    @max_per_address.setter
    def max_per_address(self, value: int | None) -> None:
        self._max_per_address = _checked("max_per_address", value)

    # ---------------------------------------------------------------- numbers

    @property
    def rejected(self) -> int:
        """Connections that were closed for either limit so far."""
        return self.refused_full + self.refused_address

    @property
    def waiting(self) -> int:
        """Connections that were accepted and wait for a place."""
        return len(self._queue)

    @property
    def clients(self) -> int:
        """How many client addresses have connections, as far as they are counted."""
        return len(self._clients)

    @property
    def is_full(self) -> bool:
        """Whether there are as many connections as there may be."""
        limit = self._max_connections
        return limit is not None and self.current >= limit

    @property
    def is_holding(self) -> bool:
        """Whether nothing is accepted until a connection ends."""
        return self._is_holding

    def count_of(self, client: InetAddress) -> int:
        """Tell how many connections a client has.

        Args:
            client: Its address, whatever the port.

        Returns:
            How many are counted for it and its network.
        """
        key = self._clients.key_of(client)
        return 0 if key is None else self._clients.get(key)

    # -------------------------------------------------------------- admitting

    def admit(self, client: InetAddress | None) -> ConnectionPermit | None:
        """Take one more connection, or not.

        Args:
            client: Whom to count it for; None if that is unknown or will be known later, see
                `ConnectionPermit.count_for`.

        Returns:
            The permit, to be released when the connection has ended; None to close it at once.
        """
        is_full = self.is_full
        if is_full and self.at_limit == "refuse":
            self.refused_full += 1
            self._tell(f"connection refused: all {self._max_connections} are in use")
            return None
        permit = ConnectionPermit(self)
        if not permit.count_for(client):
            return None
        if is_full:
            permit.turn = asyncio.get_running_loop().create_future()
            self._queue[permit.turn] = None
        else:
            self.current += 1
            self.admitted += 1
        if self.is_full and self.at_limit == "wait":
            self._hold()
        return permit

    def attach(self, member: Holdable) -> None:
        """Hold these endpoints too when there is no room.

        Args:
            member: The endpoints of a service.
        """
        self._members[member] = None
        if self._is_holding:
            member.hold()

    def detach(self, member: Holdable) -> None:
        """Forget a service's endpoints.

        Args:
            member: The endpoints; what is not attached changes nothing.
        """
        self._members.pop(member, None)

    def let_go(self) -> None:
        """Give all who wait a place, beyond the limit too, if no service has these limits any more."""
        while self._queue and not self._members:
            self._give_place(next(iter(self._queue)))

    def take(self, client: InetAddress) -> tuple[bool, ClientKey | None]:
        """Count a connection for a client; permits call this.

        Args:
            client: Its address.

        Returns:
            Whether it may have one more; what it is counted under, None if it is not.
        """
        limit = self._max_per_address
        key = None if limit is None else self._clients.key_of(client)
        if limit is None or key is None:
            return True, None
        count = self._clients.get(key)
        if count >= limit:
            self.refused_address += 1
            self._tell(f"connection from {client} refused: {count} from its address are open")
            return False, None
        self._clients.add(key)
        return True, key

    def give_back(self, key: ClientKey | None, turn: asyncio.Future[None] | None) -> None:
        """Take a connection off the counts; permits call this.

        Args:
            key: What it was counted under.
            turn: What it waited for, if it had to wait.
        """
        if key is not None:
            self._clients.remove(key)
        if turn is not None and (turn.cancelled() or not turn.done()):
            # It has never had a place.
            self._queue.pop(turn, None)
            return
        self.current -= 1
        self._fill()

    # ---------------------------------------------------------------- private

    def _fill(self) -> None:
        # What was accepted has its turn before what still waits in the kernel.
        while self._queue and not self.is_full:
            self._give_place(next(iter(self._queue)))
        if self.is_full and self.at_limit == "wait":
            self._hold()
        elif self._is_holding and not self.is_full:
            self._is_holding = False
            for member in self._members:
                member.go_on()

    def _give_place(self, turn: asyncio.Future[None]) -> None:
        del self._queue[turn]
        if not turn.done():
            turn.set_result(None)
            self.current += 1
            self.admitted += 1

    def _hold(self) -> None:
        if self._is_holding:
            return
        self._is_holding = True
        self.held += 1
        self._tell(f"all {self._max_connections} connections are in use: new ones wait")
        for member in self._members:
            member.hold()

    def _tell(self, what: str) -> None:
        # Strangers decide how often this happens.
        suppressed = self._log_limit.admit(time.monotonic())
        if suppressed is not None:
            more = (
                f" (and {suppressed} more such events that were not logged)" if suppressed else ""
            )
            _logger.warning("%s%s", what, more)


@final
class ConnectionPermit:
    """The place of one connection; made by `ConnectionLimits.admit`.

    Args:
        limits: What has admitted it.

    Attributes:
        turn: Done when the connection has its place; None if it has it already.
    """

    __slots__ = ("_key", "_limits", "turn")

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits: ConnectionLimits | None = limits
        self._key: ClientKey | None = None
        self.turn: asyncio.Future[None] | None = None

    def count_for(self, client: InetAddress | None) -> bool:
        """Count the connection for its client, once that is known.

        Args:
            client: Its address; None if it has none.

        Returns:
            False to close the connection, because this client has too many.
        """
        limits = self._limits
        if client is None or self._key is not None or limits is None:
            return True
        may, self._key = limits.take(client)
        return may

    def release(self) -> None:
        """Give the place up; calling it again does nothing."""
        limits, self._limits = self._limits, None
        if limits is not None:
            limits.give_back(self._key, self.turn)


def _checked(name: str, value: int | None) -> int | None:
    if value is not None and value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}; None for no limit")
    return value
