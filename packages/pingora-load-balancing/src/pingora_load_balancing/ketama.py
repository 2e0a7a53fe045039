"""Ketama: a ring of points on which keys find the same node again when other nodes come and go.

Theory of operation: each node has points on a ring of 2**32 places, 160 for each unit of weight; a
key belongs to the node of the first point at or after the hash of the key. Points and hashes
are CRC-32 in the way of nginx's ``hash ... consistent``: the points of a node are the checksums of
its address, each continued with the four bytes of the point before.

The ring is two sorted arrays, six to eight bytes a point. It is built bucket by bucket, so that nothing in
it takes longer than about a millisecond at a time; not even sorting, which could not be interrupted.

Sources: nginx, src/http/modules/ngx_http_upstream_hash_module.c; pingora-ketama/src/lib.rs.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["DEFAULT_POINT_MULTIPLE", "MAX_POINTS", "Bucket", "Continuum"]

DEFAULT_POINT_MULTIPLE: Final = 160
# 32 MiB, and some seconds to build.
MAX_POINTS: Final = 1 << 22

_SLICE: Final = 2_048
_POINTS_PER_CHUNK: Final = 512


@final
@dataclass(frozen=True, slots=True)
class Bucket:
    """One node of a ring.

    Attributes:
        host: The text of its IP address without brackets, its name, or the path of its socket.
        port: The text of its port; empty if it has none.
        weight: Its share of the keys, relative to the weights of the others, at least 1.

    Raises:
        ValueError: If the weight is not positive.
    """

    host: str
    port: str
    weight: int = 1

    def __post_init__(self) -> None:
        if self.weight < 1:
            msg = f"the weight of {self.host} {self.port} must be at least 1, not {self.weight}"
            raise ValueError(msg)

    @property
    def identity(self) -> bytes:
        """What its points are computed from."""
        return b"%b\0%b" % (self.host.encode(errors="surrogateescape"), self.port.encode())


@final
class Continuum:
    """A ring of nodes, which are known by their places in the list given.

    Of two nodes with a point at the same place the one whose address text is the smaller gets it,
    whatever the order of the list.

    Args:
        buckets: The nodes.
        point_multiple: Points per unit of weight.
        max_points: Upper bound of all points. Where weights exceed it, all nodes get a half, a
            quarter … of their points, but at least one.

    Attributes:
        halvings: How often the points had to be halved; 0 on rings like nginx's.

    Raises:
        ValueError: If a bound is not positive.

    Examples:
        >>> ring = Continuum([Bucket("127.0.0.1", "7777"), Bucket("127.0.0.1", "7778")])
        >>> ring.node(b"/some/path"), ring.node(b"/g")
        (1, 0)

    Source: pingora-ketama/src/lib.rs.
    """

    __slots__ = ("_buckets", "_multiple", "_points", "_steps", "_values", "_wanted", "halvings")

    def __init__(
        self,
        buckets: Sequence[Bucket],
        point_multiple: int = DEFAULT_POINT_MULTIPLE,
        max_points: int = MAX_POINTS,
    ) -> None:
        if point_multiple < 1 or max_points < 1:
            msg = "point_multiple and max_points must be at least 1"
            raise ValueError(msg)
        self._buckets: Sequence[Bucket] = buckets
        self._multiple = point_multiple
        self._values = array("I")
        self._points = array("H" if len(buckets) <= 1 << 16 else "I")
        self._wanted = point_multiple * sum(bucket.weight for bucket in buckets)
        self.halvings: int = (max(self._wanted - 1, 0) // max_points).bit_length()
        self._steps: Iterator[None] | None = self._build()

    def __len__(self) -> int:
        self.complete()
        return len(self._values)

    @property
    def size(self) -> int:
        """Bytes that the points take."""
        return sum(len(part) * part.itemsize for part in (self._values, self._points))

    def prepare(self) -> Iterator[None]:
        """Build the ring in small steps; without this it is built when it is first used.

        Yields:
            Nothing, about once a millisecond.
        """
        while self._steps is not None and next(self._steps, self) is not self:
            yield
        self._steps = None

    def complete(self) -> None:
        """Build what is not built yet."""
        for _ in self.prepare():
            pass

    def node(self, key: bytes) -> int | None:
        """Find the node of a key.

        Args:
            key: The key.

        Returns:
            The place of the node in the list, or None if there is none.
        """
        return next(self.node_iter(key), None)

    def node_iter(self, key: bytes) -> Iterator[int]:
        """Walk the ring from the place of a key.

        Args:
            key: The key.

        Yields:
            The places of nodes in the list: one per point, repeating some, for ever.
        """
        if self._steps is not None:
            self.complete()
        values = self._values
        points = self._points
        size = len(values)
        if not size:
            return
        index = bisect_left(values, crc32(key))
        if index == size:
            index = 0
        while True:
            yield points[index]
            index += 1
            if index == size:
                index = 0

    def _build(self) -> Iterator[None]:
        # All points whose value begins with the same bits are in one chunk, unsorted.
        bits = max(1, (self._wanted >> self.halvings) // _POINTS_PER_CHUNK).bit_length()
        chunks = [array("Q") for _ in range(1 << bits)]
        shift = 32 - bits
        todo = _SLICE
        for place, bucket in enumerate(self._buckets):
            base = crc32(bucket.identity)
            value = 0
            for _ in range(max(1, bucket.weight * self._multiple >> self.halvings)):
                value = crc32(value.to_bytes(4, "little"), base)
                chunks[value >> shift].append(value << 32 | place)
                todo -= 1
                if not todo:
                    todo = _SLICE
                    yield
        for chunk in chunks:
            self._take(chunk)
            todo -= len(chunk)
            if todo <= 0:
                todo = _SLICE
                yield

    def _take(self, chunk: array[int]) -> None:
        last = -1
        for point in sorted(chunk):
            value = point >> 32
            place = point & 0xFFFF_FFFF
            if value != last:
                self._values.append(value)
                self._points.append(place)
                last = value
            elif self._buckets[place].identity < self._buckets[self._points[-1]].identity:
                self._points[-1] = place
