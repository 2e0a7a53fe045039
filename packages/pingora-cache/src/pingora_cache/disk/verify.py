"""Checking all that a store has on disk, byte by byte."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pingora_cache.disk._format import read_front
from pingora_cache.disk._layout import BLOCK, BLOCK_SHIFT, FRONT, SUM, Damaged, block_sum, meta_sum
from pingora_cache.disk._shop import disk_size
from pingora_cache.disk._tree import Tree
from pingora_cache.meta import CacheMeta
from pingora_error import Error

if TYPE_CHECKING:
    from pingora_cache.disk._layout import Front

__all__ = ["Verification", "verify"]

_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


@dataclass(slots=True)
class Verification:
    """What was found.

    Attributes:
        objects: Finished objects, damaged ones included.
        used_bytes: What they count for.
        body_bytes: Bytes of their bodies.
        unfinished: Files of writes that go on, or that a process which was killed has left.
        damaged: Paths of damaged objects, and what is damaged.
    """

    objects: int = 0
    used_bytes: int = 0
    body_bytes: int = 0
    unfinished: int = 0
    damaged: dict[str, str] = field(default_factory=dict)


def verify(path: str | os.PathLike[str]) -> Verification:
    """Read all of a store and compare the checksums. Takes as long as the disk does.

    The store may be in use: what is replaced or removed meanwhile may be counted or not. Nothing
    is changed.

    Args:
        path: Its directory.

    Returns:
        What was found.

    Raises:
        OSError: If the directory cannot be read.
    """
    tree = Tree(path)
    found = Verification()
    for number in sorted(tree.leaves()):
        for slot, entry in tree.leaf(number):
            try:
                _verify_file(entry.path, slot, found)
            except FileNotFoundError:
                continue
            except Damaged as why:
                found.damaged[entry.path] = str(why)
    found.unfinished = sum(1 for _ in tree.all_writes())
    return found


def _verify_file(path: str, slot: bytes, found: Verification) -> None:
    fd = os.open(path, _FLAGS)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return
        found.objects += 1
        found.used_bytes += disk_size(status.st_size)
        front = read_front(os.pread(fd, FRONT, 0))
        if front.slot != slot or not front.state.complete:
            msg = "head"
            raise Damaged(msg)
        _verify_meta(fd, front)
        _verify_body(fd, front)
        found.body_bytes += front.state.size
    finally:
        os.close(fd)


def _verify_meta(fd: int, front: Front) -> None:
    text = os.pread(fd, front.pointer.length, front.pointer.at)
    msg = "meta"
    if meta_sum(text, front.seed) != front.pointer.sum:
        raise Damaged(msg)
    try:
        CacheMeta.from_bytes(text)
    except Error as error:
        raise Damaged(msg) from error


def _verify_body(fd: int, front: Front) -> None:
    blocks = front.blocks
    sums = os.pread(fd, SUM.size * blocks, front.sums_at)
    if len(sums) < SUM.size * blocks:
        msg = "end"
        raise Damaged(msg)
    for number in range(blocks + 1):
        size = BLOCK if number < blocks else front.state.size - (blocks << BLOCK_SHIFT)
        data = os.pread(fd, size, front.layout.body_at + (number << BLOCK_SHIFT))
        last = number == blocks
        expected = front.state.last_sum if last else SUM.unpack_from(sums, SUM.size * number)[0]
        if len(data) < size or block_sum(data, front.seed, number) != expected:
            msg = "body"
            raise Damaged(msg)
