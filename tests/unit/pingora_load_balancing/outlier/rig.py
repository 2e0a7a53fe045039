"""A pool on a fake clock, with an outlier detector."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_load_balancing import Backend, Backends, OutlierDetector
from tests.support.clock import FakeClock

if TYPE_CHECKING:
    from pingora_load_balancing import OutlierSettings

__all__ = ["Rig"]


class Rig:
    """A pool of so many backends, and requests that fare as the test says.

    Attributes:
        clock: The pool's.
        pool: The pool.
        detector: What watches it.
        changes: What ``ejection_changed`` was called with, by number.
    """

    def __init__(self, count: int, settings: OutlierSettings | None = None) -> None:
        self.clock = FakeClock()
        self.backends = [Backend(f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}:80") for i in range(count)]
        self.pool = Backends(self.backends, clock=self.clock)
        self.changes: list[tuple[int, bool]] = []
        self.detector = OutlierDetector(self.pool, settings, ejection_changed=self._changed)

    def _changed(self, backend: Backend, is_ejected: bool) -> None:
        self.changes.append((self.backends.index(backend), is_ejected))

    @property
    def ejected(self) -> list[int]:
        return [i for i, b in enumerate(self.backends) if b in self.detector.ejected]

    def report(
        self, number: int, failed: int = 0, ok: int = 0, latency: float | None = None
    ) -> None:
        for _ in range(ok):
            self.pool.report(self.backends[number], latency=latency)
        for _ in range(failed):
            self.pool.report(self.backends[number], latency=latency, failed=True)

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        # Compares all there is, and ejects whom it must: each call does some of it.
        for _ in range(4 + 2 * len(self.backends)):
            self.detector.advance()
