"""Backends that the program itself changes while it runs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, final

from pingora_load_balancing.discovery.interfaces import Discovered
from pingora_load_balancing.discovery.static import Static

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from pingora_load_balancing.backend import Backend

__all__ = ["Mutable"]


@final
class Mutable:
    """A list of backends that can be replaced, such as by an endpoint for operators.

    Not for use from several threads at once.

    Args:
        backends: Backends, or their addresses as text, which then have the weight 1.

    Raises:
        TypeError: If one address is given instead of a list of them.
        ValueError: If an address is none, or is given twice with different weights.

    Examples:
        >>> mutable = Mutable(["10.0.0.1:80"])
        >>> mutable.replace(["10.0.0.1:80", "10.0.0.2:80"])
        >>> len(mutable.backends)
        2
    """

    __slots__ = ("_changed", "_static")

    def __init__(self, backends: Iterable[str | Backend] = ()) -> None:
        self._static = Static(backends)
        self._changed = asyncio.Event()

    @property
    def backends(self) -> tuple[Backend, ...]:
        """The backends that there are now, in the order given."""
        return self._static.backends

    def replace(self, backends: Iterable[str | Backend]) -> None:
        """Put other backends in the place of these; whoever watches hears of it.

        Args:
            backends: As in the constructor.

        Raises:
            TypeError: As in the constructor; nothing has changed then.
            ValueError: As in the constructor; nothing has changed then.
        """
        self._static = Static(backends)
        # Wakes who waits now; who comes later waits for the next change.
        self._changed.set()
        self._changed = asyncio.Event()

    async def discover(self) -> Discovered:
        """Tell the backends; never fails.

        Returns:
            Those of the last `replace`.
        """
        return Discovered(self._static.backends)

    async def watch(self) -> AsyncGenerator[Discovered, None]:
        """Tell the backends now and after each `replace`; changes in quick succession count once.

        Yields:
            The backends.
        """
        while True:
            changed = self._changed
            yield Discovered(self._static.backends)
            await changed.wait()
