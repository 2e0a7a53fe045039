"""How pieces of an object look in Redis: each says whose it is, which it is, and proves it.

Theory of operation: whatever Redis hands out is believed only if its checksum is right and it is
the very piece that was asked for. A piece of a body belongs to one write, by the random number of
that write; what tells of the object belongs to its key. So neither a value that was damaged or
written by somebody else, nor an answer to somebody else's question on a connection that has lost
step, becomes part of a response.

A frame: ``pc``, version, kind, owner (16 bytes), index and length (4 bytes each), XXH3-64 of all
that and of the content, content. Numbers are little-endian.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

from xxhash import xxh3_64

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["DamagedError", "Kind", "Shape", "seal", "unseal"]

_MAGIC: Final = b"pc"
_VERSION: Final = 1
_FACTS: Final = Struct("<2sBB16sII")
_SUM: Final = Struct("<Q")
_START: Final = _FACTS.size + _SUM.size
_SHAPE: Final = Struct("<16sQI")


class DamagedError(ValueError):
    """What Redis has answered is not what was written."""


class Kind(IntEnum):
    """What a frame holds.

    Attributes:
        SHAPE: Which write, how large, in pieces of which size.
        META: The serialised meta.
        TAGS: The tags, each with its generation.
        CHUNK: A piece of the body.
    """

    SHAPE = 1
    META = 2
    TAGS = 3
    CHUNK = 4


class Shape(NamedTuple):
    """What a reader has to know to read a body.

    Attributes:
        write_id: Random number of the write, 16 bytes.
        size: Bytes of the body.
        chunk_size: Bytes of each piece but the last; 0 if the body is with the meta.
    """

    write_id: bytes
    size: int
    chunk_size: int

    @property
    def chunks(self) -> int:
        """Pieces that the body is in; 0 if it is with the meta."""
        return -(-self.size // self.chunk_size) if self.chunk_size else 0

    def to_bytes(self) -> bytes:
        """Serialise.

        Returns:
            The content of a frame.
        """
        return _SHAPE.pack(*self)

    @classmethod
    def from_bytes(cls, data: memoryview) -> Shape:
        """Parse.

        Args:
            data: The content of a frame.

        Returns:
            The shape.

        Raises:
            DamagedError: If it is none.
        """
        if len(data) != _SHAPE.size:
            msg = f"a shape has {_SHAPE.size} bytes, not {len(data)}"
            raise DamagedError(msg)
        return cls(*_SHAPE.unpack(data))


def seal(kind: Kind, owner: bytes, index: int, parts: Sequence[bytes]) -> bytes:
    """Make a frame.

    Args:
        kind: What it holds.
        owner: Whose it is, 16 bytes.
        index: Which it is.
        parts: The content, in pieces.

    Returns:
        The frame.
    """
    facts = _FACTS.pack(_MAGIC, _VERSION, kind, owner, index, sum(map(len, parts)))
    checksum = xxh3_64(facts)
    for part in parts:
        checksum.update(part)
    return b"".join((facts, _SUM.pack(checksum.intdigest()), *parts))


def unseal(frame: object, kind: Kind, owner: bytes, index: int) -> memoryview:
    """Look into a frame.

    Args:
        frame: What Redis has answered.
        kind: What it is to hold.
        owner: Whose it is to be.
        index: Which it is to be.

    Returns:
        The content.

    Raises:
        DamagedError: If it is anything but that very frame, whole.
    """
    if not isinstance(frame, bytes):
        msg = f"a frame is bytes, not {type(frame).__name__} (is decode_responses on?)"
        raise DamagedError(msg)
    view = memoryview(frame)
    if len(view) < _START:
        msg = f"a frame has at least {_START} bytes, not {len(view)}"
        raise DamagedError(msg)
    expected = _FACTS.pack(_MAGIC, _VERSION, kind, owner, index, len(view) - _START)
    if view[: _FACTS.size] != expected:
        msg = f"not the {kind.name.lower()} {index} that was asked for"
        raise DamagedError(msg)
    checksum = xxh3_64(expected)
    checksum.update(view[_START:])
    if checksum.intdigest() != _SUM.unpack_from(view, _FACTS.size)[0]:
        msg = f"the {kind.name.lower()} {index} has a wrong checksum"
        raise DamagedError(msg)
    return view[_START:]
