"""The load balancer: one set of backends, kept up to date, and a choice from it per request.

Theory of operation: everything that a choice needs is in one immutable snapshot, which is replaced
as a whole when the set or the readiness of a backend changes. A request therefore never sees half
of a change. What is known about a backend from elsewhere (now: whether it is enabled) is kept by
address, so that it outlives a change of weight or metadata.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from pingora_core.services.background import BackgroundService
from pingora_error import Error
from pingora_load_balancing.backend import distinct_backends
from pingora_load_balancing.background import keep_updated
from pingora_load_balancing.discovery import Static
from pingora_load_balancing.selection import RoundRobin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pingora_core.runtime.shutdown import ShutdownWatch
    from pingora_core.services.service import ServiceReadyNotifier
    from pingora_core.upstreams.peer import PeerAddress
    from pingora_load_balancing.backend import Backend
    from pingora_load_balancing.discovery import Discovered, ServiceDiscovery
    from pingora_load_balancing.selection import BackendSelection, SelectionBuilder

__all__ = ["LoadBalancer", "UpdateTiming"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UpdateTiming:
    """How long the parts of an update took.

    Attributes:
        discovery_duration: Seconds in the discovery.
        build_duration: Seconds to build the selection; 0 if the set had not changed.
    """

    discovery_duration: float
    build_duration: float


@dataclass(frozen=True, slots=True)
class _Snapshot:
    backends: tuple[Backend, ...]
    addresses: frozenset[PeerAddress]
    disabled: frozenset[PeerAddress]
    selection: BackendSelection


class LoadBalancer(BackgroundService):
    """Chooses an upstream server for each request.

    With a list of backends it is ready at once. With a discovery it is empty until the first
    ``update``; add it to the server as a background service, which does that:
    ``server.add_service(background_service("backends", balancer))``.

    Not for use from several threads at once.

    Args:
        backends: Backends, or their addresses as text; at least one.
        discovery: Where backends come from, instead of a list.
        selection: How to choose; called with the backends whenever the set changes.
        update_frequency: As a background service, seconds from one update to the next; None to
            update once at start.
        discovery_timeout: Seconds after which an unanswered discovery counts as failed.

    Attributes:
        last_update_timing: How long the last successful ``update`` took; None before the first.

    Raises:
        TypeError: If not exactly one of backends and discovery is given.
        ValueError: If the list is empty, an address is none, a backend is given twice with
            different weights, or a time is not positive.

    Examples:
        >>> balancer = LoadBalancer(["1.1.1.1:443", "1.0.0.1:443"])
        >>> [str(balancer.select(b"", 256)) for _ in range(3)]
        ['1.1.1.1:443', '1.0.0.1:443', '1.1.1.1:443']

    Source: pingora-load-balancing/src/lib.rs.
    """

    __slots__ = (
        "_build",
        "_discovery",
        "_discovery_timeout",
        "_snapshot",
        "_update_frequency",
        "_updating",
        "last_update_timing",
    )

    def __init__(
        self,
        backends: Iterable[str | Backend] | None = None,
        *,
        discovery: ServiceDiscovery | None = None,
        selection: SelectionBuilder = RoundRobin,
        update_frequency: float | None = None,
        discovery_timeout: float = 10.0,
    ) -> None:
        if (backends is None) is (discovery is None):
            msg = "a load balancer needs either backends or a discovery"
            raise TypeError(msg)
        for name, seconds in (
            ("update_frequency", update_frequency),
            ("discovery_timeout", discovery_timeout),
        ):
            if seconds is not None and not seconds > 0:
                msg = f"{name} must be more than 0 seconds, not {seconds}"
                raise ValueError(msg)
        initial: tuple[Backend, ...] = ()
        if backends is not None:
            discovery = static = Static(backends)
            initial = static.backends
            if not initial:
                msg = "a load balancer needs at least one backend"
                raise ValueError(msg)
        assert discovery is not None
        self._discovery = discovery
        self._build = selection
        self._update_frequency = update_frequency
        self._discovery_timeout = discovery_timeout
        self._updating = asyncio.Lock()
        self._snapshot = _Snapshot(
            initial, frozenset(b.addr for b in initial), frozenset(), selection(initial)
        )
        self.last_update_timing: UpdateTiming | None = None

    def __repr__(self) -> str:
        snapshot = self._snapshot
        return (
            f"<{type(self).__name__} {len(snapshot.backends)} backends,"
            f" {len(snapshot.disabled)} disabled>"
        )

    # ---------------------------------------------------------------------- choosing

    @property
    def backends(self) -> tuple[Backend, ...]:
        """All backends there are now, disabled and drained ones included."""
        return self._snapshot.backends

    def select(self, key: bytes, max_iterations: int) -> Backend | None:
        """Choose a backend that is ready to be used.

        Args:
            key: What to choose by, such as the path or the client's address; ignored by
                selections that need none.
            max_iterations: How many candidates to look at, at least 0; repeated ones count.

        Returns:
            The backend, or None if none of the candidates is ready.
        """
        snapshot = self._snapshot
        disabled = snapshot.disabled
        for backend in islice(snapshot.selection.iter(key), max_iterations):
            # Hashing an address takes longer than all the rest of this method.
            if not disabled or backend.addr not in disabled:
                return backend
        return None

    def select_with(
        self, key: bytes, max_iterations: int, accept: Callable[[Backend, bool], bool]
    ) -> Backend | None:
        """Choose a backend by a rule of your own.

        Args:
            key: What to choose by.
            max_iterations: How many candidates to look at, at least 0; repeated ones count.
            accept: Called with each distinct candidate and whether it is ready; True takes it.

        Returns:
            The first backend accepted, or None.
        """
        snapshot = self._snapshot
        seen: set[PeerAddress] = set()
        for backend in islice(snapshot.selection.iter(key), max_iterations):
            addr = backend.addr
            if addr in seen:
                continue
            seen.add(addr)
            if accept(backend, addr not in snapshot.disabled):
                return backend
        return None

    def is_ready(self, backend: Backend) -> bool:
        """Tell whether a backend may be chosen.

        Args:
            backend: The backend; its address counts.

        Returns:
            True if there is a backend of this address and it is enabled.
        """
        snapshot = self._snapshot
        return backend.addr in snapshot.addresses and backend.addr not in snapshot.disabled

    def set_enable(self, backend: Backend, enabled: bool) -> None:  # noqa: FBT001  # as upstream
        """Take a backend out of rotation, or back in.

        A change of weight or metadata does not undo it; leaving the set does.

        Args:
            backend: The backend; its address counts. An unknown one is ignored.
            enabled: False to take it out.
        """
        snapshot = self._snapshot
        if backend.addr in snapshot.addresses:
            this = {backend.addr}
            disabled = snapshot.disabled - this if enabled else snapshot.disabled | this
            self._snapshot = replace(snapshot, disabled=disabled)

    # ---------------------------------------------------------------------- updating

    async def update(self) -> bool:
        """Ask the discovery which backends there are now.

        A failure is logged and changes nothing. Calls that overlap are served one after the other.
        On cancellation nothing has changed.

        Returns:
            True if the discovery answered, whether or not that changed anything.
        """
        async with self._updating:
            try:
                async with asyncio.timeout(self._discovery_timeout):
                    began = time.perf_counter()
                    found = await self._discovery.discover()
                    discovered = time.perf_counter()
                changed = self._apply(found)
            except Exception as error:
                # Whatever a discovery raises must not end the loop that would try again.
                _logger.error(
                    "the update of the backends failed, the last %d stay: %s",
                    len(self._snapshot.backends),
                    str(error) or type(error).__name__,
                    exc_info=None if isinstance(error, Error | TimeoutError) else error,
                )
                return False
            built = time.perf_counter() - discovered if changed else 0.0
            self.last_update_timing = UpdateTiming(discovered - began, built)
            return True

    def _apply(self, found: Discovered) -> bool:
        """Make a new snapshot of what was found, if it differs.

        Returns:
            True if the set of backends changed.
        """
        before = self._snapshot
        backends = distinct_backends(found.backends)
        addresses = frozenset(backend.addr for backend in backends)
        turned_off = {addr for addr, enabled in found.enabled.items() if not enabled}
        turned_on = found.enabled.keys() - turned_off
        disabled = ((before.disabled | turned_off) - turned_on) & addresses
        if backends == before.backends:
            self._snapshot = replace(before, disabled=disabled)
            return False
        self._snapshot = _Snapshot(backends, addresses, disabled, self._build(backends))
        if not any(backend.weight for backend in backends):
            _logger.warning(
                "no backend can be chosen: %d found, all of weight 0"
                if backends
                else "no backend can be chosen: %d found",
                len(backends),
            )
        _logger.info("%d backends now, %d before", len(backends), len(before.backends))
        return True

    async def start(self, shutdown: ShutdownWatch) -> None:
        """Keep the backends up to date until the server stops.

        Args:
            shutdown: Tells when that is.
        """
        await keep_updated(self.update, self._update_frequency, shutdown, _nothing)

    async def start_with_ready_notifier(
        self, shutdown: ShutdownWatch, ready: ServiceReadyNotifier
    ) -> None:
        """Keep the backends up to date; ready after the first update.

        Args:
            shutdown: Tells when the server stops.
            ready: Told once the discovery has answered, or failed, for the first time.
        """
        await keep_updated(self.update, self._update_frequency, shutdown, ready.notify_ready)


def _nothing() -> None:
    pass
