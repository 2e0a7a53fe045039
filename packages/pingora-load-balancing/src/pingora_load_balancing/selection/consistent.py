"""Consistent hashing on a Ketama ring."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, final

from pingora_load_balancing.ketama import DEFAULT_POINT_MULTIPLE, MAX_POINTS, Bucket, Continuum
from pingora_load_balancing.selection.addresses import host_and_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pingora_load_balancing.backend import Backend

__all__ = ["KetamaHashing"]

_logger = logging.getLogger(__name__)

_SLICE: Final = 256


@final
class KetamaHashing:
    """Gives equal keys to the same backend, and moves few of them when backends come or go.

    The choice is that of nginx's ``hash ... consistent`` and of the original. Names and Unix
    sockets take part in it too. There are 160 points per unit of weight, of six bytes each: 1,000
    backends of weight 1 take about 1 MB.

    Args:
        backends: The backends; those of weight 0 get no key.
        point_multiple: Points per unit of weight, at least 1.
        max_points: Upper bound of all points, at least 1; weights that exceed it cost accuracy
            instead of memory.

    Examples:
        >>> from pingora_load_balancing import Backend
        >>> ring = KetamaHashing([Backend("127.0.0.1:7777"), Backend("127.0.0.1:7778")])
        >>> print(next(ring.iter(b"/some/path")))
        127.0.0.1:7778

    Source: pingora-load-balancing/src/selection/consistent.rs.
    """

    __slots__ = ("_backends", "_max_points", "_point_multiple", "_ring")

    def __init__(
        self,
        backends: Sequence[Backend],
        point_multiple: int = DEFAULT_POINT_MULTIPLE,
        max_points: int = MAX_POINTS,
    ) -> None:
        self._backends = [backend for backend in backends if backend.weight]
        self._point_multiple = point_multiple
        self._max_points = max_points
        self._ring: Continuum | None = None

    @property
    def ring(self) -> Continuum:
        """The ring; its nodes are the places of the backends among those with a weight."""
        for _ in self.prepare():
            pass
        assert self._ring is not None
        return self._ring

    def prepare(self) -> Iterator[None]:
        """Build the ring in small steps.

        Yields:
            Nothing, about once a millisecond.
        """
        if self._ring is not None:
            return
        buckets: list[Bucket] = []
        for number, backend in enumerate(self._backends, start=1):
            buckets.append(Bucket(*host_and_port(backend.addr), backend.weight))
            if number % _SLICE == 0:
                yield
        ring = Continuum(buckets, self._point_multiple, self._max_points)
        if ring.halvings:
            _logger.warning(
                "the weights of %d backends ask for more than %d points: each gets 1/%d of them",
                len(buckets),
                self._max_points,
                1 << ring.halvings,
            )
        yield from ring.prepare()
        self._ring = ring

    def iter(self, key: bytes) -> Iterator[Backend]:
        """Walk the ring from the place of the key.

        Args:
            key: What to choose by.

        Returns:
            One backend per point: some again and again, for ever.
        """
        ring = self._ring
        if ring is None:  # Not "or": whether a ring is empty takes it longer to tell.
            ring = self.ring
        return map(self._backends.__getitem__, ring.node_iter(key))
