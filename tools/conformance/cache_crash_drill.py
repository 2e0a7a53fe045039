"""Kill processes that fill a cache directory, again and again, and see that it stays right.

``PYTHONPATH=tools:. python -m conformance.cache_crash_drill --kills 50``
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.cache_disk_worker import KEYS, Counts, read_checked
from tests.support.waiting import eventually

from pingora_cache.disk import DiskStorage, verify

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Drill", "Report", "main"]

_ROOT = Path(__file__).resolve().parents[2]
_PATIENCE = 30.0
# What changes while it is being counted.
_SLACK = 1.05


@dataclass(slots=True)
class Report:
    """What came of it.

    Attributes:
        kills: Processes that were killed.
        seconds: How long it took.
        counts: What all processes saw, as far as they could tell.
        wrong: What was served that was never written so.
        most_bytes: The most that all files took at once.
        max_bytes: What they may take.
        objects: Objects that were left.
        damaged: Those of them that are damaged.
        unfinished: Files of writes that were left after recovery.
        accounted: Bytes that the manager has counted after recovery.
        on_disk: Bytes that there are.
        readable: Objects that a lookup found after recovery, each compared byte by byte.
        recovery: Seconds until the count was right and the last left file was gone.
    """

    kills: int = 0
    seconds: float = 0.0
    counts: Counts = field(default_factory=Counts)
    wrong: list[str] = field(default_factory=list)
    most_bytes: int = 0
    max_bytes: int = 0
    objects: int = 0
    damaged: dict[str, str] = field(default_factory=dict)
    unfinished: int = 0
    accounted: int = 0
    on_disk: int = 0
    readable: int = 0
    recovery: float = 0.0

    @property
    def missed(self) -> list[str]:
        """The bars that were missed, in words."""
        bars = {
            f"wrong bytes were served: {self.wrong}": not self.wrong,
            f"damaged objects: {self.damaged}": not self.damaged,
            f"{self.unfinished} unfinished files are left": not self.unfinished,
            f"{self.accounted} bytes accounted, {self.on_disk} on disk": self.accounted
            == self.on_disk,
            f"{self.most_bytes} bytes at once, of {self.max_bytes}": self.most_bytes
            <= self.max_bytes * _SLACK,
            "nothing was filled": self.counts.fills > 0,
        }
        return [text for text, is_met in bars.items() if not is_met]

    def __str__(self) -> str:
        counts = self.counts
        head = f"{self.kills} kills in {self.seconds:.1f} s"
        fills = f"fills: {counts.fills} ({counts.bytes_filled / 2**20:.0f} MiB)"
        reads = f"reads: {counts.hits} whole, of these {counts.followed} while written"
        ends = f"{counts.broken} ended in an error; {len(self.wrong)} wrong"
        most = f"bytes on disk: at most {self.most_bytes} of {self.max_bytes}"
        left = f"after {self.recovery:.2f} s of recovery: {self.objects} objects"
        booked = f"{self.accounted} bytes accounted, {self.on_disk} on disk"
        bad = f"{len(self.damaged)} damaged, {self.unfinished} unfinished files left"
        return "\n".join(
            (
                head,
                f"{fills}, {counts.given_up} given up",
                f"{reads}; {ends}",
                f"purges: {counts.purges}",
                most,
                f"{left}, {booked}, {bad}; {self.readable} read and compared",
            )
        )


class _Worker:
    # One process that fills; its counts so far.

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.counts = Counts()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            with contextlib.suppress(ValueError):  # cut off by a kill
                self.counts = Counts(**json.loads(line))

    async def end(self, *, kill: bool) -> None:
        if kill:
            self.process.kill()
        elif self.process.stdin is not None:
            self.process.stdin.close()
        await self._reading
        await self.process.wait()


class Drill:
    """The drill.

    Args:
        directory: An empty directory.
        kills: How many processes to kill.
        workers: How many there are at a time.
        max_bytes: The limit of the cache.
        pause: Seconds between two kills, on average.
        seed: What chance begins with.
    """

    def __init__(
        self,
        directory: Path,
        *,
        kills: int = 50,
        workers: int = 4,
        max_bytes: int = 32 * 2**20,
        pause: float = 0.3,
        seed: int = 1,
    ) -> None:
        self._directory = directory
        self._kills = kills
        self._number = workers
        self._pause = pause
        self._chance = random.Random(seed)  # noqa: S311  # the same in each run
        self._workers: list[_Worker] = []
        self._started = 0
        self._report = Report(max_bytes=max_bytes)

    async def run(self) -> Report:
        """Fill, kill, recover, and check.

        Returns:
            What came of it.
        """
        began = time.monotonic()
        sampling = asyncio.create_task(self._sample())
        try:
            for _ in range(self._number):
                await self._start()
            for _ in range(self._kills):
                await self._kill_one()
            for worker in self._workers:
                await self._end(worker, kill=False)
        finally:
            sampling.cancel()
            await asyncio.wait([sampling])
            for worker in self._workers:
                if worker.process.returncode is None:
                    await worker.end(kill=True)
        await self._recover()
        self._report.seconds = time.monotonic() - began
        return self._report

    async def _start(self) -> None:
        self._started += 1
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.support.cache_disk_worker",
            str(self._directory),
            str(self._report.max_bytes),
            str(self._started),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=_ROOT,
        )
        self._workers.append(_Worker(process))

    async def _kill_one(self) -> None:
        # Any that has begun to fill, at any moment of it.
        await eventually(
            lambda: any(worker.counts.fills for worker in self._workers),
            "a process that fills",
            timeout=_PATIENCE,
        )
        await asyncio.sleep(self._chance.uniform(0, 2 * self._pause))
        filling = [worker for worker in self._workers if worker.counts.fills]
        worker = self._chance.choice(filling)
        self._workers.remove(worker)
        await self._end(worker, kill=True)
        self._report.kills += 1
        await self._start()

    async def _end(self, worker: _Worker, *, kill: bool) -> None:
        await worker.end(kill=kill)
        counts, total = worker.counts, self._report.counts
        for name in ("fills", "given_up", "bytes_filled", "hits", "followed", "broken", "purges"):
            setattr(total, name, getattr(total, name) + getattr(counts, name))
        if counts.wrong:
            self._report.wrong.append(counts.wrong)

    async def _sample(self) -> None:
        while True:
            size = await asyncio.to_thread(_bytes_in, self._directory)
            self._report.most_bytes = max(self._report.most_bytes, size)
            await asyncio.sleep(0.02)

    async def _recover(self) -> None:
        report = self._report
        began = time.monotonic()
        async with DiskStorage(self._directory, max_bytes=report.max_bytes) as storage:
            with contextlib.suppress(AssertionError):
                await eventually(lambda: self._is_recovered(storage), "recovery", timeout=_PATIENCE)
            report.recovery = time.monotonic() - began
            found = await asyncio.to_thread(verify, self._directory)
            report.objects, report.on_disk = found.objects, found.used_bytes
            report.damaged, report.unfinished = found.damaged, found.unfinished
            report.accounted = storage.stats.used_bytes
            counts = Counts()
            for number in range(KEYS):
                try:
                    await read_checked(storage, number, counts)
                except Exception as error:  # noqa: BLE001  # it is told
                    report.wrong.append(repr(error))
            report.readable = counts.hits
            if counts.broken:
                report.wrong.append(f"{counts.broken} objects found that cannot be read")

    def _is_recovered(self, storage: DiskStorage) -> bool:
        files = list(self._directory.glob("filling/*/*"))
        journals = list(self._directory.glob("journals/*"))
        size = _bytes_in(self._directory)
        return not files and len(journals) == 1 and storage.stats.used_bytes == size


def _bytes_in(directory: Path) -> int:
    # All files of objects and of writes, in blocks of the file system.
    total = 0
    for name in ("objects", "filling"):
        for folder, _, files in os.walk(directory / name):
            for file in files:
                with contextlib.suppress(OSError):
                    total += -(-os.lstat(f"{folder}/{file}").st_size // 4096) * 4096
    return total


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the drill and print what came of it.

    Args:
        arguments: The command line after the name; None for the process's own.

    Returns:
        The exit code: 0 if every bar was met.
    """
    parser = argparse.ArgumentParser(prog="conformance.cache_crash_drill", description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="how many processes to kill (50)")
    parser.add_argument("--workers", type=int, default=4, help="how many there are at a time (4)")
    parser.add_argument("--max-bytes", type=int, default=32 * 2**20, help="the limit (32 MiB)")
    parser.add_argument("--pause", type=float, default=0.3, help="seconds between kills (0.3)")
    parser.add_argument("--seed", type=int, default=1, help="what chance begins with (1)")
    parser.add_argument("--directory", type=Path, help="where; None for a temporary one")
    options = vars(parser.parse_args(arguments))
    with tempfile.TemporaryDirectory(dir=options.pop("directory")) as name:
        report = asyncio.run(Drill(Path(name), **options).run())
    print(report)
    for bar in report.missed:
        print(f"MISSED: {bar}")
    return 1 if report.missed else 0


if __name__ == "__main__":
    sys.exit(main())
