"""What goes on behind in each process: telling the manager, and being the manager.

Theory of operation: one task, which now and then sends a step of work to a thread. Everything that
belongs to the manager happens in it, one thing after the other. When the manager's process ends,
the kernel takes its lock away, and the next step of another process gets it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from typing import TYPE_CHECKING, Final, final

from pingora_cache.disk._io import told
from pingora_cache.disk._manager import Manager
from pingora_error import Error

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_cache.disk._shop import Shop
    from pingora_cache.eviction import EvictionManager

__all__ = ["Keeper"]

_logger = logging.getLogger(__name__)

# Seconds between two steps: while there is a lot to do, while something is written, otherwise.
_BUSY: Final = 0.005
_FILLING: Final = 0.1
_IDLE: Final = 0.5
_SAVE: Final = 60.0
# Nothing is counted while the state is saved: of a large one that takes seconds.
_SAVE_SHARE: Final = 100.0


@final
class Keeper:
    """The task.

    Args:
        shop: The store.
        eviction: What goes first, once this process is the manager.
        clock: Seconds that only grow.
    """

    __slots__ = (
        "_clock",
        "_complaint",
        "_eviction",
        "_is_loaded",
        "_manager",
        "_next_save",
        "_shop",
        "_stopping",
        "_task",
        "_woken",
    )

    def __init__(self, shop: Shop, eviction: EvictionManager, clock: Callable[[], float]) -> None:
        self._shop = shop
        self._eviction = eviction
        self._clock = clock
        self._manager = Manager(
            shop.tree, eviction, limits=shop.limits, stats=shop.io.stats, clock=clock
        )
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._next_save = 0.0
        # Whether the list is worth saving.
        self._is_loaded = False
        self._stopping = False
        self._complaint = ""

    def start(self) -> None:
        """Begin the task; what the last count says is known at once.

        Raises:
            OSError: If that cannot be read.
        """
        self._shop.nudge = self._woken.set
        self._shop.look()
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """End the task, tell the manager the last, or save what the manager knows."""
        task, self._task = self._task, None
        if task is None:
            return
        self._stopping = True
        self._woken.set()
        await asyncio.wait([task])
        if self._is_loaded:
            await self._save()
        await self._shop.io.run(self._manager.resign)

    def abandon(self) -> None:
        """Let a forked process, which has inherited it, not be the manager."""
        self._manager.resign()

    async def _run(self) -> None:
        await self._turn()
        while not self._stopping:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._woken.wait()
            self._woken.clear()
            await self._turn()

    def _pause(self) -> float:
        manager = self._manager
        if manager.is_busy:
            return _BUSY
        return _FILLING if manager.is_filling or self._shop.touched else _IDLE

    async def _turn(self) -> None:
        shop = self._shop
        touched, shop.touched = shop.touched, {}
        try:
            if await shop.io.run(lambda: self._work(touched)):
                await self._load()
                await shop.io.run(self._manager.step)
            shop.look()
            shop.turned()
            self._complaint = ""
        except OSError as error:
            shop.touch_again(touched)
            shop.io.stats.errors += 1
            shop.io.stats.count_failure(told(error))
            if str(error) != self._complaint:  # once, not at each turn
                self._complaint = str(error)
                _logger.warning("the cache in %s cannot be kept up: %s", shop.tree.root, error)
        except Exception:  # nobody waits for this task, and it has to go on
            _logger.exception("the cache in %s cannot be kept up", shop.tree.root)
        if self._is_loaded and self._clock() >= self._next_save:
            await self._save()

    def _work(self, touched: dict[bytes, None]) -> bool:
        # Whether this process is the manager since now.
        shop, manager = self._shop, self._manager
        if not os.path.isdir(shop.tree.journals):
            shop.tree.make()
        shop.journal.renew()
        if touched:
            shop.journal.look(touched)
        if manager.is_elected and manager.keeps():
            manager.step()
            return False
        return manager.elect()

    async def _load(self) -> None:
        self._next_save = self._clock() + _SAVE
        try:
            await self._eviction.load(self._shop.tree.eviction)
        except Error as error:
            _logger.warning("the state of the cache in %s: %s", self._shop.tree.root, error)
        self._is_loaded = True

    async def _save(self) -> None:
        began = self._clock()
        try:
            await self._shop.io.run(self._manager.pause)
            await self._eviction.save(self._shop.tree.eviction)
        except (Error, OSError) as error:
            _logger.warning("the state of the cache in %s: %s", self._shop.tree.root, error)
        now = self._clock()
        self._next_save = now + max(_SAVE, _SAVE_SHARE * (now - began))
