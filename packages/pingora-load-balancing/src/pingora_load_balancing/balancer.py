"""The load balancer: a pool of backends, kept up to date, and a choice from it per request."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pingora_core.services.background import BackgroundService
from pingora_core.services.service import ServiceReadyNotifier
from pingora_load_balancing.backends import Backends
from pingora_load_balancing.background import keep_asking, keep_watching, until_shutdown
from pingora_load_balancing.discovery import Static
from pingora_load_balancing.discovery.following import FailureLog
from pingora_load_balancing.discovery.interfaces import ClosableDiscovery, WatchableDiscovery
from pingora_load_balancing.health import HealthChecker
from pingora_load_balancing.selection import RoundRobin
from pingora_load_balancing.selector import Selector
from pingora_load_balancing.slices import Slices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pingora_core.runtime.shutdown import ShutdownWatch
    from pingora_load_balancing.backend import Backend
    from pingora_load_balancing.discovery import Discovered, ServiceDiscovery
    from pingora_load_balancing.health import HealthCheck
    from pingora_load_balancing.selection import SelectionBuilder

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


class LoadBalancer(Selector, BackgroundService):
    """Chooses an upstream server for each request.

    With a list of backends it is ready at once. With a discovery it is empty until the first
    ``update``; add it to the server as a background service, which does that, and checks the
    health: ``server.add_service(background_service("backends", balancer))``.

    Several load balancers that choose in different ways can share one pool, and with it the
    discovery and the health of its backends. One of them has the discovery and the health check;
    the others are given the pool alone and need not be added to the server.

    Not for use from several threads at once.

    Args:
        backends: Backends, or their addresses as text; at least one.
        discovery: Where backends come from, instead of a list.
        pool: Where they are kept; one of its own if None. Alone, without backends and discovery:
            somebody else fills it.
        selection: How to choose; called with the set whenever that changes.
        update_frequency: As a background service, seconds from one update to the next, plus or
            minus a tenth. None: a discovery that can tell of changes is watched, any other is
            asked once at start.
        discovery_timeout: Seconds after which an unanswered discovery counts as failed.
        health_check: How to check the backends, as a background service.
        health_check_frequency: Seconds from one check of a backend to the next; `health` has the
            other settings.

    Attributes:
        pool: The pool, with the states of the backends.
        health: Checks the backends, if there is a health check.
        last_update_timing: How long the last successful ``update`` took; None before the first.

    Raises:
        TypeError: If there are both or neither of backends and discovery, and no pool.
        ValueError: If the list is empty, an address is none, a backend is given twice with
            different weights, or a time is not positive.

    Examples:
        >>> balancer = LoadBalancer(["1.1.1.1:443", "1.0.0.1:443"])
        >>> [str(balancer.select(b"", 256)) for _ in range(3)]
        ['1.1.1.1:443', '1.0.0.1:443', '1.1.1.1:443']

    Source: pingora-load-balancing/src/lib.rs.
    """

    __slots__ = (
        "_discovery",
        "_discovery_timeout",
        "_failures",
        "_update_frequency",
        "_updating",
        "health",
        "last_update_timing",
    )

    def __init__(
        self,
        backends: Iterable[str | Backend] | None = None,
        *,
        discovery: ServiceDiscovery | None = None,
        pool: Backends | None = None,
        selection: SelectionBuilder = RoundRobin,
        update_frequency: float | None = None,
        discovery_timeout: float = 10.0,
        health_check: HealthCheck | None = None,
        health_check_frequency: float = 5.0,
    ) -> None:
        sources = (backends is not None) + (discovery is not None)
        if sources == 2 or (sources == 0 and pool is None):
            msg = "a load balancer needs either backends or a discovery, or a pool that has them"
            raise TypeError(msg)
        for name, seconds in (
            ("update_frequency", update_frequency),
            ("discovery_timeout", discovery_timeout),
        ):
            if seconds is not None and not seconds > 0:
                msg = f"{name} must be more than 0 seconds, not {seconds}"
                raise ValueError(msg)
        members: tuple[Backend, ...] | None = None
        if backends is not None:
            discovery = static = Static(backends)
            members = static.backends
            if not members:
                msg = "a load balancer needs at least one backend"
                raise ValueError(msg)
        pool = Backends() if pool is None else pool
        if members is not None:
            pool.replace(members)
        super().__init__(pool, selection)
        self._discovery = discovery
        self._update_frequency = update_frequency
        self._discovery_timeout = discovery_timeout
        self._failures = FailureLog(_logger, level=logging.ERROR)
        self._updating = asyncio.Lock()
        self.health: HealthChecker | None = (
            None
            if health_check is None
            else HealthChecker(pool, health_check, frequency=health_check_frequency)
        )
        self.last_update_timing: UpdateTiming | None = None

    def set_enable(self, backend: Backend, enabled: bool) -> None:  # noqa: FBT001  # as upstream
        """Take a backend out of rotation, or back in.

        A change of weight or metadata does not undo it; leaving the set does.

        Args:
            backend: The backend; its address counts. An unknown one is ignored.
            enabled: False to take it out.
        """
        self.pool.set_enabled(backend.addr, enabled)

    # ---------------------------------------------------------------------- updating

    async def update(self) -> bool:
        """Ask the discovery which backends there are now.

        A failure is logged and changes nothing. Calls that overlap are served one after the other.

        Returns:
            True if the discovery answered, whether or not that changed anything.
        """
        if self._discovery is None:
            return True
        began = time.perf_counter()
        async with self._updating:
            try:
                async with asyncio.timeout(self._discovery_timeout):
                    found = await self._discovery.discover()
            except Exception as error:  # noqa: BLE001  # told in the log, and tried again
                self._tell(error)
                return False
            return await self._apply(found, time.perf_counter() - began)

    async def _take(self, found: Discovered) -> bool:
        async with self._updating:
            return await self._apply(found, 0.0)

    async def _apply(self, found: Discovered, discovery_duration: float) -> bool:
        """Make what was found the set, and build the selection for it.

        Returns:
            True unless that failed.
        """
        began = time.perf_counter()
        before = len(self.pool.current)
        self._is_held = is_cancelled = True
        try:
            steps = self.pool.replacing(found.backends, found.enabled)
            has_changed = await Slices(steps).finish_in_slices()
            has_built = await self.catch_up()
            is_cancelled = False
        except Exception as error:  # noqa: BLE001  # told in the log, and tried again
            is_cancelled = False
            self._tell(error)
            return False
        finally:
            self._is_held = False
            if is_cancelled:
                # The set may have changed already; nobody else would build for it.
                self._follow(self.pool)
        built = time.perf_counter() - began if has_built else 0.0
        self.last_update_timing = UpdateTiming(discovery_duration, built)
        if has_changed:
            backends = self.pool.current
            if not any(backend.weight for backend in backends):
                _logger.warning(
                    "no backend can be chosen: %d found, all of weight 0"
                    if backends
                    else "no backend can be chosen: %d found",
                    len(backends),
                )
            _logger.info("%d backends now, %d before", len(backends), before)
        return True

    def _tell(self, error: Exception) -> None:
        what = f"the update of the backends failed, the last {len(self.backends)} stay"
        self._failures.write(what, error)

    # ---------------------------------------------------------------------- as a service

    async def start(self, shutdown: ShutdownWatch) -> None:
        """Keep the backends up to date, and check their health, until the server stops.

        Args:
            shutdown: Tells when that is.
        """
        await until_shutdown(self._serve(shutdown, ServiceReadyNotifier()), shutdown)

    async def start_with_ready_notifier(
        self, shutdown: ShutdownWatch, ready: ServiceReadyNotifier
    ) -> None:
        """Keep the backends up to date, and check their health.

        Args:
            shutdown: Tells when the server stops.
            ready: Told once the discovery has answered, or failed, for the first time; with a
                health check without which no backend is used, once each has been checked.
        """
        await until_shutdown(self._serve(shutdown, ready), shutdown)

    async def _serve(self, shutdown: ShutdownWatch, ready: ServiceReadyNotifier) -> None:
        async with asyncio.TaskGroup() as tasks:

            def go_on() -> None:
                if self.health is None:
                    ready.notify_ready()
                else:
                    tasks.create_task(self.health.start_with_ready_notifier(shutdown, ready))

            await self._keep_updated(go_on)

    async def _keep_updated(self, on_first_update: Callable[[], None]) -> None:
        discovery = self._discovery
        try:
            if self._update_frequency is None and isinstance(discovery, WatchableDiscovery):
                await keep_watching(
                    discovery,
                    self._take,
                    self._tell,
                    on_first_update,
                    timeout=self._discovery_timeout,
                )
            else:
                await keep_asking(self.update, self._update_frequency, on_first_update)
        finally:
            if isinstance(discovery, ClosableDiscovery):
                await discovery.close()
