"""How often a client may try tokens; no I/O.

Theory of operation. A token of the least length cannot be guessed over a network, one that somebody
made up can. So a client has some attempts at once and then one every few seconds, whether it finds the
token by then or not: if the right one were let through meanwhile, that would tell. Clients are told
apart by address, those of IPv6 by their network, and those on a Unix socket are one. What is kept is
bounded: with very many clients the one that failed longest ago has its attempts back.
"""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address
from typing import Final, final

__all__ = ["Throttle", "client_key"]

_ATTEMPTS: Final = 10
_INTERVAL: Final = 3.0
_MAX_CLIENTS: Final = 4096
_NETWORK: Final = (1 << 64) - 1


@final
class Throttle:
    """Counts what failed, by client.

    Args:
        attempts: How many may fail at once.
        interval: Seconds after which one more may.
        max_clients: How many are remembered.

    Examples:
        >>> throttle = Throttle(attempts=1, interval=3.0)
        >>> throttle.fail("10.0.0.1", 0.0)
        >>> throttle.wait("10.0.0.1", 1.0), throttle.wait("10.0.0.1", 3.0)
        (2.0, 0.0)
    """

    __slots__ = ("_attempts", "_free_at", "_interval", "_max_clients")

    def __init__(
        self,
        attempts: int = _ATTEMPTS,
        interval: float = _INTERVAL,
        max_clients: int = _MAX_CLIENTS,
    ) -> None:
        self._attempts = attempts
        self._interval = interval
        self._max_clients = max_clients
        # When all attempts of a client are there again (the generic cell rate algorithm).
        self._free_at: OrderedDict[str, float] = OrderedDict()

    def wait(self, client: str, now: float) -> float:
        """Ask whether a client may try.

        Args:
            client: Who, as `client_key` says.
            now: A clock that never goes back, seconds.

        Returns:
            Seconds until it may; 0 if it may now.
        """
        free_at = self._free_at.get(client)
        if free_at is None:
            return 0.0
        return max(0.0, free_at - now - (self._attempts - 1) * self._interval)

    def fail(self, client: str, now: float) -> None:
        """Note an attempt that failed.

        Args:
            client: Whose.
            now: As for `wait`.
        """
        self._free_at[client] = max(self._free_at.get(client, now), now) + self._interval
        self._free_at.move_to_end(client)
        if len(self._free_at) > self._max_clients:
            self._free_at.popitem(last=False)


def client_key(address: str) -> str:
    """Tell clients apart.

    Args:
        address: An IP address; empty or anything else for clients without one.

    Returns:
        The address, for IPv6 the first address of its network of 64 bits (RFC 6177).

    Examples:
        >>> client_key("2001:db8::1") == client_key("2001:db8::2")
        True
    """
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return "local"
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    mapped = parsed.ipv4_mapped
    return str(IPv6Address(int(parsed) & ~_NETWORK) if mapped is None else mapped)
