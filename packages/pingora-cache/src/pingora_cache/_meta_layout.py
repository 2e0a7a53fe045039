"""The binary form of what is known about a stored response, apart from its head.

Theory of operation: a MessagePack array, laid out as the original does. Its first item is the
version, except in version 0, which is recognised by its four items. Version 2 grows at its end
only: what is missing there has its default, and what is there beyond our knowledge is skipped.

| Version | Items |
|---|---|
| 0 | fresh_until, created, swr, sie |
| 1 | 1, fresh_until, created, swr, sie |
| 2 | 2, fresh_until, created, updated, swr, sie, [variance, [epoch_override, [ours]]] |

Times are arrays of seconds and nanoseconds, a variance is an array of sixteen numbers. ``ours``
are an item that is kept free (later versions of the original have a time there), the tags, whether
to revalidate always, and when the variants were made to expire. They are written only if they say
something, since the original refuses what is longer than it knows.

Source: pingora-cache/src/meta.rs.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

import msgspec

from pingora_error import Custom, Error

__all__ = [
    "CACHE_META_ERROR",
    "MAX_TAGS",
    "MetaFields",
    "decode_fields",
    "encode_fields",
    "join_parts",
    "split_parts",
]

CACHE_META_ERROR: Final = Custom("CacheMetaError")
"""Bytes that were taken for the meta of a stored response are none, or exceed a limit."""

_MIN_SIZE: Final = 10
_MAX_SECONDS: Final = 2**53
_MAX_WINDOW: Final = 2**32 - 1
MAX_TAGS: Final = 4096
"""How many tags a meta may have; what has more is taken for garbage."""

_Seconds: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=_MAX_SECONDS)]
_Nanos: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=999_999_999)]
_Time: TypeAlias = tuple[_Seconds, _Nanos]
_Window: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=_MAX_WINDOW)]
_Octet: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=255)]
_Hash: TypeAlias = (
    Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    | Annotated[list[_Octet], msgspec.Meta(min_length=16, max_length=16)]
)


class _V0(msgspec.Struct, array_like=True, gc=False):
    fresh_until: _Time
    created: _Time
    stale_while_revalidate: _Window
    stale_if_error: _Window


class _V1(msgspec.Struct, array_like=True, gc=False):
    version: int
    fresh_until: _Time
    created: _Time
    stale_while_revalidate: _Window
    stale_if_error: _Window


class _V2(msgspec.Struct, array_like=True, gc=False):
    version: int
    fresh_until: _Time
    created: _Time
    updated: _Time
    stale_while_revalidate: _Window
    stale_if_error: _Window
    variance: _Hash | None = None
    epoch_override: _Time | None = None
    provenance: _Time | None = None
    tags: Annotated[tuple[bytes, ...], msgspec.Meta(max_length=MAX_TAGS)] = ()
    revalidate: bool = False
    variants_expired: _Time | None = None


class MetaFields(msgspec.Struct, gc=False):
    """What is known about a stored response, apart from its head.

    Attributes:
        fresh_until: Until when it is fresh, wall clock seconds.
        created: When it was stored, wall clock seconds.
        updated: When it was validated last, wall clock seconds.
        stale_while_revalidate: Seconds that it may be served stale for while it is validated.
        stale_if_error: Seconds that it may be served stale for when validation fails.
        variance: What tells it from other responses of its primary key, 16 bytes.
        epoch_override: When its age was 0, wall clock seconds; None for ``updated``.
        tags: What it can be purged by.
        revalidate: Whether it is to be validated before each use.
        variants_expired: When all variants were made to expire, wall clock seconds; 0.0 if not.
    """

    fresh_until: float
    created: float
    updated: float
    stale_while_revalidate: int = 0
    stale_if_error: int = 0
    variance: bytes | None = None
    epoch_override: float | None = None
    tags: tuple[bytes, ...] = ()
    revalidate: bool = False
    variants_expired: float = 0.0


_encode: Final = msgspec.msgpack.Encoder().encode
_decode_v0: Final = msgspec.msgpack.Decoder(_V0).decode
_decode_v1: Final = msgspec.msgpack.Decoder(_V1).decode
_decode_v2: Final = msgspec.msgpack.Decoder(_V2).decode


def encode_fields(fields: MetaFields) -> bytes:
    """Write the latest layout.

    Args:
        fields: What to write. Times are kept to the nanosecond, as far as a float has it; what
            does not fit (before 1970, infinite) becomes the nearest that does.

    Returns:
        The array.

    Raises:
        Error: ``CACHE_META_ERROR`` if there are more tags than can be read back: 4096.
    """
    if len(fields.tags) > MAX_TAGS:
        raise Error(CACHE_META_ERROR, f"{len(fields.tags)} tags are too many")
    items: list[object] = [
        2,
        _to_wire(fields.fresh_until),
        _to_wire(fields.created),
        _to_wire(fields.updated),
        min(max(fields.stale_while_revalidate, 0), _MAX_WINDOW),
        min(max(fields.stale_if_error, 0), _MAX_WINDOW),
    ]
    variance, epoch, tags = fields.variance, fields.epoch_override, fields.tags
    ours = bool(tags) or fields.revalidate or fields.variants_expired > 0
    if variance is not None or epoch is not None or ours:
        items.append(None if variance is None else list(variance))
    if epoch is not None or ours:
        items.append(None if epoch is None else _to_wire(epoch))
    if ours:
        items += (None, tags, fields.revalidate)
    if fields.variants_expired > 0:
        items.append(_to_wire(fields.variants_expired))
    return _encode(items)


def decode_fields(data: bytes) -> MetaFields:
    """Read any layout.

    Args:
        data: The array, and nothing after it.

    Returns:
        What it says. Of what an old layout has not: ``updated`` is ``created``.

    Raises:
        Error: ``CACHE_META_ERROR`` if it is no such array, or of an unknown version.
    """
    version = _version(data)
    try:
        if version == 2:
            return _from_v2(_decode_v2(data))
        old = _decode_v0(data) if version == 0 else _decode_v1(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise Error(CACHE_META_ERROR, "malformed meta", cause=error) from error
    created = _from_wire(old.created)
    return MetaFields(
        _from_wire(old.fresh_until),
        created,
        created,
        old.stale_while_revalidate,
        old.stale_if_error,
    )


def join_parts(fields: bytes, head: bytes) -> bytes:
    """Make one of the two parts.

    Args:
        fields: The MessagePack array.
        head: The head, in whatever form.

    Returns:
        Both, with the length of the first before it.
    """
    return len(fields).to_bytes(4, "big") + fields + head


def split_parts(data: bytes) -> tuple[bytes, bytes]:
    """Undo ``join_parts``.

    Args:
        data: What it made.

    Returns:
        The MessagePack array and the head.

    Raises:
        Error: ``CACHE_META_ERROR`` if it ends too early.
    """
    end = 4 + int.from_bytes(data[:4], "big")
    if end > len(data):
        raise Error(CACHE_META_ERROR, "meta that ends too early")
    return data[4:end], data[end:]


def _version(data: bytes) -> int:
    if len(data) < _MIN_SIZE:
        raise Error(CACHE_META_ERROR, f"{len(data)} bytes are too few for a meta")
    kind = data[0]
    if kind == 0x94:
        return 0
    if 0x90 <= kind <= 0x9F:
        version = data[1]
    elif kind == 0xDC:  # an array of more than 15 items
        version = data[3]
    else:
        raise Error(CACHE_META_ERROR, "malformed meta: no array")
    if version not in {1, 2}:
        raise Error(CACHE_META_ERROR, f"meta of an unknown version ({version})")
    return version


def _from_v2(wire: _V2) -> MetaFields:
    variance, epoch, outdated = wire.variance, wire.epoch_override, wire.variants_expired
    return MetaFields(
        _from_wire(wire.fresh_until),
        _from_wire(wire.created),
        _from_wire(wire.updated),
        wire.stale_while_revalidate,
        wire.stale_if_error,
        None if variance is None else bytes(variance),
        None if epoch is None else _from_wire(epoch),
        wire.tags,
        wire.revalidate,
        0.0 if outdated is None else _from_wire(outdated),
    )


def _to_wire(time: float) -> tuple[int, int]:
    if not time > 0:
        return (0, 0)
    if time >= _MAX_SECONDS:
        return (_MAX_SECONDS, 0)
    seconds = int(time)
    nanos = round((time - seconds) * 1e9)
    return (seconds, nanos) if nanos < 1_000_000_000 else (seconds + 1, 0)


def _from_wire(time: tuple[int, int]) -> float:
    seconds, nanos = time
    return seconds + nanos / 1e9
