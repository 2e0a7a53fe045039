"""What holds for the counts of connections, whatever happens in whatever order."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

from hypothesis import given, strategies as st

from pingora_core.listeners import ConnectionLimits
from pingora_core.protocols.address import InetAddress

if TYPE_CHECKING:
    from pingora_core.listeners.admission import AtLimit, ConnectionPermit

CLIENTS = [
    None,
    InetAddress("192.0.2.1", 1),
    InetAddress("192.0.2.2", 2),
    InetAddress("2001:db8::1", 3),
    InetAddress("2001:db8::2", 4),
]

limits_or_none = st.none() | st.integers(1, 4)
clients = st.sampled_from(range(len(CLIENTS)))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("come"), clients),
        st.tuples(st.just("announce"), clients),
        st.tuples(st.just("leave"), st.integers(0, 20)),
        st.tuples(st.just("cancel"), st.integers(0, 20)),
        st.tuples(st.just("limit"), st.integers(1, 5)),
    ),
    max_size=60,
)


class Doors:
    """Endpoints that note whether they are held."""

    is_held = False

    def hold(self) -> None:
        self.is_held = True

    def go_on(self) -> None:
        self.is_held = False


class Crowd:
    """Connections that come and go, counted once more."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self.permits: list[ConnectionPermit] = []
        self.most = limits.max_connections

    def step(self, action: str, number: int) -> None:
        if action == "come":
            permit = self.limits.admit(CLIENTS[number])
            if permit is not None:
                self.permits.append(permit)
        elif action == "limit":
            if self.limits.max_connections is not None:
                self.limits.max_connections = number
                self.most = max(self.most or 0, number)
        elif self.permits:
            index = number % len(self.permits)
            if action == "announce":
                self.permits[index].count_for(CLIENTS[number % len(CLIENTS)])
                return
            permit = self.permits.pop(index)
            if action == "cancel" and permit.turn is not None:
                permit.turn.cancel()
            permit.release()
            permit.release()

    def check(self, doors: Doors) -> None:
        limits = self.limits
        placed = [each for each in self.permits if each.turn is None or each.turn.done()]
        assert limits.current == len(placed)
        assert limits.waiting == len(self.permits) - len(placed)
        assert self.most is None or limits.current <= self.most
        assert doors.is_held == limits.is_holding == (limits.is_full and limits.at_limit == "wait")
        assert not limits.waiting or limits.is_full
        counts = [limits.count_of(client) for client in CLIENTS if client is not None]
        assert limits.max_per_address is None or max(counts) <= limits.max_per_address
        assert limits.clients <= len(self.permits)


@given(limits_or_none, limits_or_none, st.sampled_from(["wait", "refuse"]), steps)
def test_every_place_is_counted_and_given_back(
    most: int | None,
    per_address: int | None,
    at_limit: Literal["wait", "refuse"],
    actions: list[tuple[str, int]],
) -> None:
    """Never more than the limit, nobody waits while there is room, and nothing is left over."""

    async def play(at_limit: AtLimit) -> None:
        limits = ConnectionLimits(
            max_connections=most, max_per_address=per_address, at_limit=at_limit
        )
        doors = Doors()
        limits.attach(doors)
        crowd = Crowd(limits)
        for action, number in actions:
            crowd.step(action, number)
            crowd.check(doors)
        for permit in crowd.permits:
            permit.release()
        assert (limits.current, limits.waiting, limits.clients) == (0, 0, 0)
        assert not doors.is_held

    asyncio.run(play(at_limit))
