"""A process that fills, reads and purges a cache directory, and tells what it saw.

Every body follows from its key and its version, which the ETag names: so whoever reads one knows
what each byte has to be. ``python -m tests.support.cache_disk_worker DIRECTORY MAX_BYTES SEED`` runs
until its standard input ends; it writes its counts, a line of JSON each time, to standard output.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import sys
import time
from dataclasses import asdict, dataclass

from pingora_cache.disk import DiskStorage
from pingora_cache.key import CacheKey
from pingora_cache.meta import CacheMeta
from pingora_cache.storage import PurgeAction
from pingora_error import Error
from pingora_http import ResponseHeader

__all__ = ["KEYS", "Counts", "Wrong", "body_of", "key_of", "main", "meta_of", "read_checked"]

KEYS = 300
_TASKS = 16
_LARGEST = 21  # a power of two
_TAGS = [b"red", b"green", b"blue"]


class Wrong(Exception):  # noqa: N818
    """Something was served that was never written so."""


@dataclass
class Counts:
    """What a process saw.

    Attributes:
        fills: Writes that were published.
        given_up: Writes that failed, or were given up.
        bytes_filled: Bytes of bodies that were published.
        hits: Bodies that were read from beginning to end.
        followed: Those of them that were still being written.
        broken: Bodies that ended in an error, as those of killed writers do.
        purges: Purges.
        wrong: What was wrong.
    """

    fills: int = 0
    given_up: int = 0
    bytes_filled: int = 0
    hits: int = 0
    followed: int = 0
    broken: int = 0
    purges: int = 0
    wrong: str = ""


def key_of(number: int) -> CacheKey:
    """Name an object."""
    return CacheKey(f"object {number}")


def body_of(number: int, version: int) -> bytes:
    """Make the body that a version of an object has."""
    chance = random.Random(f"{number} {version}")
    size = int(2 ** chance.uniform(4, _LARGEST))
    return hashlib.shake_128(f"{number} {version}".encode()).digest(size)


def meta_of(number: int, version: int, *, fresh: float, size: int | None) -> CacheMeta:
    """Make the meta that a version of an object has."""
    now = time.time()
    header = ResponseHeader(200, headers=[("ETag", f'"{number} {version}"')])
    if size is not None:
        header.insert_header("Content-Length", str(size))
    tag = _TAGS[number % len(_TAGS)]
    return CacheMeta(header, created=now, fresh_until=now + fresh, tags=(tag,))


async def read_checked(storage: DiskStorage, number: int, counts: Counts) -> bool:
    """Read an object, and compare every byte. Returns whether there was a fresh one."""
    found = await storage.lookup(key_of(number))
    if found is None:
        return False
    meta, reader = found
    try:
        etag = (meta.header.get("etag") or "").strip('"')
        named, _, version = etag.partition(" ")
        if named != str(number):
            msg = f"{etag} found in place of {number}"
            raise Wrong(msg)
        expected = body_of(number, int(version))
        position = 0
        while piece := await reader.read_body():
            if expected[position : position + len(piece)] != piece:
                msg = f"{etag}: a piece of {len(piece)} bytes at {position} is another"
                raise Wrong(msg)
            position += len(piece)
        if position != len(expected):
            msg = f"{etag}: ended at {position} of {len(expected)} bytes"
            raise Wrong(msg)
        counts.hits += 1
        counts.followed += reader.is_partial
    except Error:
        counts.broken += 1
    finally:
        reader.close()
    return meta.is_fresh(time.time())


async def _fill(storage: DiskStorage, number: int, chance: random.Random, counts: Counts) -> None:
    version = chance.randrange(1_000_000)
    body = body_of(number, version)
    size = len(body) if chance.random() < 0.5 else None
    meta = meta_of(number, version, fresh=chance.uniform(0.1, 2.0), size=size)
    writer = await storage.get_miss_handler(key_of(number), meta)
    try:
        at = 0
        while at < len(body):
            if chance.random() < 0.02:
                counts.given_up += 1
                return
            step = chance.randrange(1, 100_000)
            await writer.write_body(body[at : at + step], end=False)
            at += step
            if chance.random() < 0.3:
                await asyncio.sleep(chance.uniform(0, 0.01))
        await writer.finish()
        counts.fills += 1
        counts.bytes_filled += len(body)
    except Error:
        counts.given_up += 1
    finally:
        writer.close()


async def _work(storage: DiskStorage, chance: random.Random, counts: Counts) -> None:
    while True:
        number = min(int(chance.expovariate(1 / 60)), KEYS - 1)
        if not await read_checked(storage, number, counts):
            await _fill(storage, number, chance, counts)
        what = chance.random()
        action = chance.choice(list(PurgeAction))
        if what < 0.02:
            counts.purges += 1
            await storage.purge(key_of(number).to_compact(), action=action)
        elif what < 0.021:
            counts.purges += 1
            await storage.purge_tag(chance.choice(_TAGS), action=action)
        elif what < 0.1:
            await _confirm(storage, number)


async def _confirm(storage: DiskStorage, number: int) -> None:
    found = await storage.lookup(key_of(number))
    if found is not None:
        meta, reader = found
        reader.close()
        await storage.update_meta(key_of(number), meta.replace(fresh_until=time.time() + 1.0))


async def _run(directory: str, max_bytes: int, seed: str) -> None:
    counts = Counts()
    loop = asyncio.get_running_loop()
    stdin = loop.run_in_executor(None, sys.stdin.read)
    async with DiskStorage(directory, max_bytes=max_bytes, stall_timeout=5.0) as storage:
        works = [
            asyncio.create_task(_work(storage, random.Random(f"{seed} {n}"), counts))
            for n in range(_TASKS)
        ]
        while not stdin.done():
            done, _ = await asyncio.wait(
                [*works, stdin], timeout=0.05, return_when="FIRST_COMPLETED"
            )
            for task in done & set(works):
                counts.wrong = repr(task.exception())
            sys.stdout.write(json.dumps(asdict(counts)) + "\n")
            sys.stdout.flush()
            if counts.wrong:
                break
        for task in works:
            task.cancel()
        await asyncio.wait(works)


def main() -> None:
    """Run until standard input ends."""
    directory, max_bytes, seed = sys.argv[1:]
    asyncio.run(_run(directory, int(max_bytes), seed))


if __name__ == "__main__":
    main()
