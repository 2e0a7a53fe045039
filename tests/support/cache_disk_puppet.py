"""A process with a cache directory open, which does what it is told, a line at a time.

``async with Puppet(directory) as puppet: await puppet.ask("fill", "name", 1000)``
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pingora_cache.disk import DiskStorage
from pingora_cache.storage import PurgeAction
from pingora_error import Error
from tests.support.cache_disk import begin, begun_in, body, fill, key, meta, read

if TYPE_CHECKING:
    from pingora_cache.storage import HitHandler, MissHandler

__all__ = ["Puppet"]

_ROOT = Path(__file__).resolve().parents[2]
_LIMIT = 20.0


class Puppet:
    """The process, as an async context manager; killed if it is still there at the end.

    Args:
        directory: The cache directory.
        max_bytes: The limit of the cache.
    """

    def __init__(self, directory: Path, *, max_bytes: int = 1 << 30) -> None:
        self._arguments = [str(directory), str(max_bytes)]
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.support.cache_disk_puppet",
            *self._arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=_ROOT,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    async def ask(self, *words: str | int) -> object:
        """Let it do something.

        Args:
            words: A method of ``_Actor``, and its arguments.

        Returns:
            What that returned.
        """
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        async with asyncio.timeout(_LIMIT):
            self._process.stdin.write(json.dumps(words).encode() + b"\n")
            line = await self._process.stdout.readline()
        return json.loads(line)

    async def kill(self) -> None:
        """End it as hard as can be; nothing on the second call."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()
            await self._process.communicate()

    async def leave(self) -> None:
        """Let it close the store, and end."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(_LIMIT):
            await self._process.wait()


class _Actor:
    # What the process can do; texts and numbers go in and out.

    def __init__(self, storage: DiskStorage, directory: Path) -> None:
        self._storage = storage
        self._directory = directory
        self._writers: dict[str, MissHandler] = {}
        self._readers: dict[str, HitHandler] = {}

    async def fill(self, name: str, size: int, *tags: str) -> bool:
        about = meta(name, tags=[tag.encode() for tag in tags])
        return (await fill(self._storage, name, body(name, size), about)).published

    async def begin(self, name: str, size: int, *tags: str) -> int:
        about = meta(name, tags=[tag.encode() for tag in tags])
        writer = self._writers[name] = await begin(self._storage, name, about)
        await writer.write_body(body(name, size), end=False)
        while not begun_in(self._directory):  # noqa: ASYNC110  # no event tells of a file
            await asyncio.sleep(0.002)
        return size

    async def add(self, name: str, text: str) -> int:
        await self._writers[name].write_body(text.encode(), end=False)
        return len(text)

    async def finish(self, name: str) -> str:
        try:
            return str((await self._writers.pop(name).finish()).published)
        except Error as error:
            return str(error.etype)

    async def read(self, name: str, size: int) -> str:
        data = await read(self._storage, name)
        if data is None:
            return "nothing"
        return "right" if data == body(name, size) else f"{len(data)} other bytes"

    async def follow(self, name: str) -> int:
        found = await self._storage.lookup(key(name))
        if found is None:
            return -1
        self._readers[name] = found[1]
        piece = await found[1].read_body()
        return len(piece or b"")

    async def go_on(self, name: str) -> str:
        try:
            while await self._readers[name].read_body():
                pass
        except Error as error:
            return str(error.etype)
        return "end"

    async def purge(self, name: str, action: str) -> str:
        how = PurgeAction(action)
        return (await self._storage.purge(key(name).to_compact(), action=how)).value

    async def purge_tag(self, tag: str, action: str) -> str:
        await self._storage.purge_tag(tag.encode(), action=PurgeAction(action))
        return tag

    async def numbers(self) -> dict[str, int]:
        return self._storage.stats.snapshot()


async def _act(directory: str, max_bytes: str) -> None:
    loop = asyncio.get_running_loop()
    async with DiskStorage(directory, max_bytes=int(max_bytes)) as storage:
        actor = _Actor(storage, Path(directory))
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            name, *arguments = json.loads(line)
            result = await getattr(actor, name)(*arguments)
            sys.stdout.write(json.dumps(result) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_act(*sys.argv[1:]))
