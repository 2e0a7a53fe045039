"""A choice from a pool, per request.

Theory of operation: what there is to choose from, and how, is one immutable snapshot, made for one
generation of the pool's set and replaced as a whole. A request therefore never sees half of a
change. Whether a backend is ready is looked up in its state at the very moment of the choice.

A new snapshot is built beside the one in use, a few milliseconds at a time if it takes long, and
then swapped in. Until then requests are served from the one before.
"""

from __future__ import annotations

import asyncio
import logging
from itertools import islice
from typing import TYPE_CHECKING

from pingora_load_balancing.selection import RoundRobin
from pingora_load_balancing.slices import Slices
from pingora_load_balancing.snapshot import snapshot_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_core.upstreams.peer import PeerAddress
    from pingora_load_balancing.backend import Backend
    from pingora_load_balancing.backends import Backends
    from pingora_load_balancing.selection import SelectionBuilder
    from pingora_load_balancing.snapshot import Snapshot
    from pingora_load_balancing.state import BackendState, Lease

__all__ = ["Selector"]

_logger = logging.getLogger(__name__)


class Selector:
    """Chooses from a pool in one way; any number of them can share the pool.

    It follows the changes of the pool until it is closed.

    Args:
        pool: The pool.
        selection: How to choose; called with the set whenever that changes.

    Attributes:
        pool: As given, with the states of the backends.

    Examples:
        >>> from pingora_load_balancing import Backends, KetamaHashing, LoadBalancer
        >>> balancer = LoadBalancer(["127.0.0.1:7777", "127.0.0.1:7778"])
        >>> by_key = Selector(balancer.pool, KetamaHashing)
        >>> print(by_key.select(b"/some/path", 256))
        127.0.0.1:7778
    """

    __slots__ = ("_build", "_is_held", "_rebuild", "_snapshot", "_unsubscribe", "pool")

    def __init__(self, pool: Backends, selection: SelectionBuilder = RoundRobin) -> None:
        self.pool: Backends = pool
        self._build = selection
        self._snapshot: Snapshot = Slices(snapshot_of(pool.current, selection)).finish()
        self._rebuild: asyncio.Task[None] | None = None
        # Somebody else is about to call catch_up().
        self._is_held = False
        self._unsubscribe = pool.subscribe(self._follow)

    def __repr__(self) -> str:
        states = self._snapshot.backends.states
        disabled = sum(not state.is_enabled for state in states)
        return f"<{type(self).__name__} {len(states)} backends, {disabled} disabled>"

    def close(self) -> None:
        """Follow the pool no longer; the last set stays in use. Again does nothing."""
        self._unsubscribe()
        rebuild, self._rebuild = self._rebuild, None
        if rebuild is not None:
            rebuild.cancel()

    # ---------------------------------------------------------------------- choosing

    @property
    def backends(self) -> tuple[Backend, ...]:
        """All backends there are now, disabled and drained ones included."""
        return self._snapshot.backends.backends

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
        states = snapshot.states
        for backend in islice(snapshot.selection.iter(key), max_iterations):
            # By identity: hashing an address takes longer than all the rest of this method.
            state = states.get(id(backend))
            if state.is_ready if state is not None else self.pool.is_ready(backend.addr):
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
            state = snapshot.states.get(id(backend))
            if accept(backend, self.pool.is_ready(addr) if state is None else state.is_ready):
                return backend
        return None

    def state(self, backend: Backend) -> BackendState | None:
        """Look up what is known about a backend.

        Args:
            backend: The backend; its address counts.

        Returns:
            Its state, which changes as it does; None if it is not in the pool.
        """
        return self.pool.states.get(backend.addr)

    def lease(self, backend: Backend) -> Lease:
        """Count a request as on its way at a backend, until it is released.

        Selections such as `LeastRequest` go by it.

        Args:
            backend: The backend chosen.

        Returns:
            What to release, best as a context manager.
        """
        return self.pool.lease(backend)

    def report(
        self, backend: Backend, *, latency: float | None = None, failed: bool = False
    ) -> None:
        """Tell how a request went.

        Args:
            backend: The backend that it went to; its address counts.
            latency: Seconds it took, if known; `LeastLatency` goes by it.
            failed: Whether it failed through the fault of the backend.
        """
        self.pool.report(backend, latency=latency, failed=failed)

    def is_ready(self, backend: Backend) -> bool:
        """Tell whether a backend may be chosen.

        Args:
            backend: The backend; its address counts.

        Returns:
            True if there is a backend of this address and it is ready.
        """
        return self.pool.is_ready(backend.addr)

    # ---------------------------------------------------------------------- following

    async def catch_up(self) -> bool:
        """Build for the set that the pool has now, unless that is done; the loop goes on meanwhile.

        What the selection raises when it is built is raised here; the last one stays in use then.

        Returns:
            True if anything was built.
        """
        has_built = False
        while not self._is_current:
            work = Slices(snapshot_of(self.pool.current, self._build))
            self._snapshot = await work.finish_in_slices()
            has_built = True
        return has_built

    @property
    def _is_current(self) -> bool:
        return self._snapshot.backends is self.pool.current

    def _follow(self, pool: Backends) -> None:
        if self._is_current or self._is_held:
            return
        if self._rebuild is not None and not self._rebuild.done():
            # It looks for newer sets when it is done with this one.
            return
        work = Slices(snapshot_of(pool.current, self._build))
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        try:
            if loop is None or work.advance():
                self._snapshot = work.finish()
            else:
                self._rebuild = loop.create_task(self._finish(work))
        except Exception as error:  # noqa: BLE001  # told in the log
            self._complain(error)

    async def _finish(self, work: Slices[Snapshot]) -> None:
        try:
            self._snapshot = await work.finish_in_slices()
            await self.catch_up()
        except Exception as error:  # noqa: BLE001  # told in the log
            self._complain(error)
        finally:
            self._rebuild = None

    def _complain(self, error: Exception) -> None:
        _logger.error(
            "the selection cannot be built, the one of the last %d backends stays",
            len(self._snapshot.backends),
            exc_info=error,
        )
