"""The background service that checks the backends of a pool."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from pingora_core.services.background import BackgroundService
from pingora_load_balancing.background import until_shutdown
from pingora_load_balancing.health._run import CheckRun
from pingora_load_balancing.health.interfaces import ClosableHealthCheck
from pingora_load_balancing.health.settings import HealthSettings, InitialHealth

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pingora_core.runtime.shutdown import ShutdownWatch
    from pingora_core.services.service import ServiceReadyNotifier
    from pingora_core.upstreams.peer import PeerAddress
    from pingora_load_balancing.backends import Backends
    from pingora_load_balancing.health.interfaces import HealthCheck
    from pingora_load_balancing.health.record import HealthRecord

__all__ = ["HealthChecker"]

# How a pool is checked now, so that nobody does it twice: the pool may be shared.
_runs: Final[dict[Backends, CheckRun]] = {}


@dataclass(eq=False, repr=False)
class HealthChecker(HealthSettings, BackgroundService):
    """Checks the backends of a pool, each at its own time, and tells the pool what it found.

    Add it to the server: ``server.add_service(background_service("health", checker))``. All load
    balancers over the pool profit; `LoadBalancer(health_check=...)` runs one of these itself. If
    several are run over one pool with the same check, one of them works and the others stand by.

    The settings may be changed while it runs; they apply to what comes next.

    Attributes:
        pool: The pool.
        check: How to check one backend; closed when the service ends, if it can be.
        clock: Tells the time in seconds, monotonically; None for the pool's clock.

    Examples:
        >>> pool = Backends(["10.0.0.1:80", "10.0.0.2:80"])
        >>> checker = HealthChecker(pool, TcpHealthCheck(), frequency=2.0, consecutive_failure=3)
        >>> checker.frequency_when_unhealthy = 10.0

    Source: pingora-load-balancing/src/{lib,background,health_check}.rs. There the check has the
    thresholds, and one loop does the discovery and one check after the other.
    """

    pool: Backends
    check: HealthCheck
    _: KW_ONLY
    clock: Callable[[], float] | None = None

    _applied: InitialHealth = field(default=InitialHealth.HEALTHY, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._apply_initial()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.pool!r} every {self.frequency} s>"

    @property
    def records(self) -> Mapping[PeerAddress, HealthRecord]:
        """What was found so far, by address; empty while nobody checks the pool."""
        run = _runs.get(self.pool)
        return MappingProxyType({} if run is None else run.records)

    def check_now(self, address: PeerAddress | None = None) -> None:
        """Check as soon as possible; without effect while nobody checks the pool.

        Args:
            address: Of the backend; None for all. One that is unknown is ignored.
        """
        run = _runs.get(self.pool)
        if run is not None:
            run.check_now(address)

    # ------------------------------------------------------------------ as a service

    async def start(self, shutdown: ShutdownWatch) -> None:
        """Check until the server stops; checks that are under way then are cancelled.

        Args:
            shutdown: Tells when that is.

        Raises:
            RuntimeError: If the pool is being checked in another way.
        """
        self._refuse_another_check()
        await until_shutdown(self._work(_nothing), shutdown)

    async def start_with_ready_notifier(
        self, shutdown: ShutdownWatch, ready: ServiceReadyNotifier
    ) -> None:
        """Check until the server stops.

        Args:
            shutdown: Tells when that is.
            ready: Told at once if backends count as healthy until they were checked; otherwise
                after each backend that was there at first has been checked.

        Raises:
            RuntimeError: If the pool is being checked in another way.
        """
        self._refuse_another_check()
        if self.initial is InitialHealth.HEALTHY:
            ready.notify_ready()
        await until_shutdown(self._work(ready.notify_ready), shutdown)

    def _apply_initial(self) -> None:
        # Once, and not with each start: what was found out by then counts for more.
        if self.initial is not self._applied:
            self._applied = self.initial
            is_healthy = self.initial is InitialHealth.HEALTHY
            self.pool.initially_healthy = is_healthy
            for state in self.pool.current.states:
                self.pool.set_healthy(state.backend.addr, is_healthy)

    def _refuse_another_check(self) -> None:
        # Two verdicts on one backend would take turns.
        other = _runs.get(self.pool)
        if other is not None and other.check is not self.check:
            msg = f"{self.pool!r} is being checked already, with another health check"
            raise RuntimeError(msg)

    async def _work(self, on_first_round: Callable[[], None]) -> None:
        while (other := _runs.get(self.pool)) is not None:
            self._refuse_another_check()
            on_first_round()
            await other.ended.wait()
        self._apply_initial()
        clock = self.pool.clock if self.clock is None else self.clock
        run = _runs[self.pool] = CheckRun(
            self.pool, self.check, self, clock=clock, on_first_round=on_first_round
        )
        try:
            await run.run()
        finally:
            del _runs[self.pool]
            run.ended.set()
            if isinstance(self.check, ClosableHealthCheck):
                await self.check.close()


def _nothing() -> None:
    pass
