"""The records of the log of purges, and what they mean for an object.

Theory of operation: purges are counted, over all processes, by their *position* in the log. A write
notes the position at its beginning, and its object keeps it; what has a later position and names
the object, or a tag of it, applies to it. No clock takes part, so none can be wrong.

Tags stay in memory: the last position of each. Keys only matter to writes that go on, since a
purge removes what is finished; the last few thousand are enough. What is forgotten leaves a *floor*
behind: whoever is older counts as purged. Too much of that is safe, too little is not.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple, final

from xxhash import xxh3_64_intdigest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

__all__ = [
    "LOG_HEAD",
    "Batch",
    "Kind",
    "LogHead",
    "Purges",
    "Record",
    "Verdict",
    "read_records",
]

LOG_HEAD: Final = 56
"""Bytes of the head of the log."""

_MAGIC: Final = b"pgpurge1"
_HEAD: Final = Struct("<8sQQQQQQ")
_RECORD: Final = Struct("<QdHHIQ")  # position, when, kind, length, nothing, check
_CHECK: Final = Struct("<Q")
_MAX_NAME: Final = 0xFFFF


class Kind(IntEnum):
    """What a record says.

    Attributes:
        DELETE_TAG: Everything with a tag is gone.
        EXPIRE_TAG: Everything with a tag has expired.
        DELETE_KEY: The object of a key is gone.
        EXPIRE_KEY: The object of a key has expired.
    """

    DELETE_TAG = 1
    EXPIRE_TAG = 2
    DELETE_KEY = 3
    EXPIRE_KEY = 4


class Record(NamedTuple):
    """A purge.

    Attributes:
        position: Counts them.
        when: Wall clock seconds.
        kind: What it does.
        name: The tag, or the hash of the key.
    """

    position: int
    when: float
    kind: Kind
    name: bytes

    def pack(self) -> bytes:
        """Write it down.

        Returns:
            The bytes.

        Raises:
            ValueError: If the tag has more than 65,535 bytes.
        """
        if len(self.name) > _MAX_NAME:
            msg = f"a tag of {len(self.name)} bytes is too long"
            raise ValueError(msg)
        head = _RECORD.pack(self.position, self.when, self.kind, len(self.name), 0, 0)
        check = xxh3_64_intdigest(head + self.name)
        return head[: -_CHECK.size] + _CHECK.pack(check) + self.name


class Batch(NamedTuple):
    """What has been read of a log.

    Attributes:
        records: The records.
        size: Bytes that they took.
        damaged: Whether what follows is damaged. A record that is not all there is not.
    """

    records: list[Record]
    size: int
    damaged: bool


def read_records(data: bytes) -> Batch:
    """Read records.

    Args:
        data: What follows the head of the log, or the last record that was read.

    Returns:
        All that are complete.
    """
    records: list[Record] = []
    at = 0
    while len(data) - at >= _RECORD.size:
        position, when, kind, length, _, check = _RECORD.unpack_from(data, at)
        body = at + _RECORD.size
        end = body + length
        if end > len(data):
            break
        name = data[body:end]
        zeroed = data[at : body - _CHECK.size] + bytes(_CHECK.size) + name
        if check != xxh3_64_intdigest(zeroed) or not 1 <= kind <= len(Kind):
            return Batch(records, at, damaged=True)
        records.append(Record(position, when, Kind(kind), name))
        at = end
    return Batch(records, at, damaged=False)


class LogHead(NamedTuple):
    """What the log begins with.

    Attributes:
        epoch: Tells this log from others: positions of another one mean nothing.
        start: The position of the last purge when it was begun.
        tag_floor: Objects with tags and of a lower position count as purged.
        key_floor: Writes of a lower position count as purged.
        known_end: Behind the records up to ``start``, which were taken over from an older log.
    """

    epoch: int
    start: int = 0
    tag_floor: int = 0
    key_floor: int = 0
    known_end: int = LOG_HEAD

    def pack(self) -> bytes:
        """Write it down.

        Returns:
            ``LOG_HEAD`` bytes.
        """
        head = _HEAD.pack(_MAGIC, *self, 0)
        return head[: -_CHECK.size] + _CHECK.pack(xxh3_64_intdigest(head))

    @classmethod
    def unpack(cls, data: bytes) -> LogHead | None:
        """Read it.

        Args:
            data: The first bytes of a log.

        Returns:
            It; None if they are damaged.
        """
        if len(data) < LOG_HEAD:
            return None
        magic, *fields, check = _HEAD.unpack_from(data)
        zeroed = data[: LOG_HEAD - _CHECK.size] + bytes(_CHECK.size)
        if magic != _MAGIC or check != xxh3_64_intdigest(zeroed):
            return None
        return cls(*fields)


class Verdict(NamedTuple):
    """What purges mean for an object.

    Attributes:
        deleted: Whether it is gone.
        expired: Otherwise: when it was made to expire, wall clock seconds; 0.0 if it was not.
    """

    deleted: bool
    expired: float


_NOTHING: Final = Verdict(deleted=False, expired=0.0)
_DELETED: Final = Verdict(deleted=True, expired=0.0)
_NONE: Final = (0, 0, 0.0)


@final
class Purges:
    """The purges that may still matter.

    Args:
        head: What the log begins with.
        max_tags: How many tags to remember.
        max_keys: How many keys to remember.

    Attributes:
        epoch: Which log it is.
        position: That of the last purge.
        tag_floor: As in ``LogHead``.
        key_floor: As in ``LogHead``.
    """

    __slots__ = (
        "_keys",
        "_max_keys",
        "_max_tags",
        "_tags",
        "epoch",
        "key_floor",
        "position",
        "tag_floor",
    )

    def __init__(self, head: LogHead, *, max_tags: int = 65_536, max_keys: int = 4096) -> None:
        self.epoch = head.epoch
        self.position = head.start
        self.tag_floor = head.tag_floor
        self.key_floor = head.key_floor
        self._max_tags = max_tags
        self._max_keys = max_keys
        # The position that deletes, that which expires, and when that was; the oldest first.
        self._tags: dict[bytes, tuple[int, int, float]] = {}
        self._keys: dict[bytes, tuple[int, int, float]] = {}

    def add(self, record: Record) -> None:
        """Take note of a purge.

        Args:
            record: The purge.
        """
        self.position = max(self.position, record.position)
        is_tag = record.kind <= Kind.EXPIRE_TAG
        known = self._tags if is_tag else self._keys
        deleted, expired, when = known.pop(record.name, _NONE)
        if record.kind in {Kind.DELETE_TAG, Kind.DELETE_KEY}:
            known[record.name] = (record.position, expired, when)
        else:
            known[record.name] = (deleted, record.position, record.when)
        if is_tag and len(known) > self._max_tags:
            known.clear()
            self.tag_floor = record.position
        elif len(known) > self._max_keys and not is_tag:
            oldest = next(iter(known))
            deleted, expired, _ = known.pop(oldest)
            self.key_floor = max(self.key_floor, deleted, expired)

    def judge_tags(self, tags: Iterable[bytes], epoch: int, position: int) -> Verdict:
        """Tell what purges by tag mean for an object.

        Args:
            tags: Its tags.
            epoch: The log that its position is of.
            position: What had been purged when it was made.

        Returns:
            What they mean.
        """
        if epoch != self.epoch or position < self.tag_floor:
            return _DELETED
        return _judge(self._tags, tags, position)

    def judge_write(
        self, slot: bytes, tags: Collection[bytes], epoch: int, position: int
    ) -> Verdict:
        """Tell what purges mean for a write that goes on.

        Args:
            slot: The hash of its key.
            tags: Its tags.
            epoch: The log that its position is of.
            position: What had been purged when it began.

        Returns:
            What they mean.
        """
        if epoch != self.epoch or position < self.key_floor:
            return _DELETED
        if position == self.position:
            return _NOTHING
        verdict = _judge(self._keys, (slot,), position)
        if not tags:
            return verdict
        # The worse of the two: gone, then expired last.
        return max(verdict, self.judge_tags(tags, epoch, position))

    def records(self) -> Iterator[Record]:
        """Tell what a log needs to hold so that it says all this.

        Yields:
            Records, by position.
        """
        for kinds, known in (
            ((Kind.DELETE_TAG, Kind.EXPIRE_TAG), self._tags),
            ((Kind.DELETE_KEY, Kind.EXPIRE_KEY), self._keys),
        ):
            for name, (deleted, expired, when) in known.items():
                if deleted:
                    yield Record(deleted, when, kinds[0], name)
                if expired:
                    yield Record(expired, when, kinds[1], name)


def _judge(
    known: dict[bytes, tuple[int, int, float]], names: Iterable[bytes], position: int
) -> Verdict:
    found = 0.0
    for name in names:
        deleted, expired, when = known.get(name, _NONE)
        if deleted > position:
            return _DELETED
        if expired > position:
            found = max(found, when)
    return Verdict(deleted=False, expired=found) if found else _NOTHING
