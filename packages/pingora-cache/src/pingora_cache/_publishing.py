"""What is just being published, so that a purge in between is not lost.

With an eviction manager outside the store, an object is published by one and admitted by the other,
in two steps. A purge that comes between them removes the object, and the admission must not follow:
it would count an object that is not there. Part of ``pingora_cache.fill``.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pingora_cache.storage import Storage

__all__ = ["Publication", "note_purge", "publishing"]


@final
class Publication:
    """An object that a store is just publishing.

    Args:
        storage: The store.

    Attributes:
        storage: The store.
        is_purged: Whether the object was purged since it began.
    """

    __slots__ = ("is_purged", "storage")

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.is_purged = False


_publications: dict[bytes, list[Publication]] = {}


@contextmanager
def publishing(storage: Storage, hashed: bytes) -> Iterator[Publication]:
    """Take part in what ``note_purge`` tells.

    Args:
        storage: The store.
        hashed: The combined hash of the key.

    Yields:
        What is told.
    """
    publication = Publication(storage)
    _publications.setdefault(hashed, []).append(publication)
    try:
        yield publication
    finally:
        publications = _publications[hashed]
        publications.remove(publication)
        if not publications:
            del _publications[hashed]


def note_purge(storage: Storage, hashed: bytes) -> None:
    """Tell those who are publishing an object that it has been purged.

    Args:
        storage: The store that it was purged from.
        hashed: The combined hash of its key.
    """
    for publication in _publications.get(hashed, ()):
        if publication.storage is storage:
            publication.is_purged = True
