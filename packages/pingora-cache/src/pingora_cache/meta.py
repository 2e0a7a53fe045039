"""What is stored of a response besides its body: its head, and when it may be used.

Theory of operation
-------------------
A meta is made when a response is admitted and then shared: by the store, and by every request
that finds it. So nobody changes one; ``replace`` and its relatives give a changed copy.

```
 epoch          updated                fresh_until          + stale windows
   |               |                        |                      |
 --+---------------+------------------------+----------------------+------->
   age 0           stored or validated      fresh until here       may be served stale until here
```

``epoch`` is when the response was made, as far as one can know: its age counts from there
(RFC 9111 section 4.2.3). Without an override that is when it was stored or validated last.

All times are those of the wall clock, since they outlive the process. A wall clock may be set
back: then what seems to come from the future, by more than a minute, counts as stale, or else it
could be served for as long as the clock was wrong.

As bytes it is the length of what ``_meta_layout`` describes (four bytes, big endian), that, and
the head as HTTP/1 text; a head of HTTP/2 is read back as one of HTTP/1.1.

Source: pingora-cache/src/meta.rs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from pingora_cache._head_text import read_response_head, write_response_head
from pingora_cache._meta_changes import MetaChanges
from pingora_cache._meta_layout import (
    CACHE_META_ERROR,
    MetaFields,
    decode_fields,
    encode_fields,
    join_parts,
    split_parts,
)

if TYPE_CHECKING:
    from typing import Self, Unpack

    from pingora_http import ResponseHeader

__all__ = ["CACHE_META_ERROR", "CacheMeta", "MetaChanges"]

_FROM_THE_FUTURE: Final = 60.0
# What the objects take in CPython, about.
_BASE_SIZE: Final = 480
_FIELD_SIZE: Final = 128
_TAG_SIZE: Final = 48


class CacheMeta:
    """What is known about a stored response. Not to be changed: readers share it.

    Args:
        header: The head, as it shall be served. It is taken, not copied.
        created: When it was stored, wall clock seconds.
        updated: When it was validated last, wall clock seconds; None for ``created``.
        fresh_until: Until when it is fresh, inclusive, wall clock seconds.
        stale_while_revalidate: Seconds after that for which it may be served while it is being
            validated; 0 for never.
        stale_if_error: Seconds after that for which it may be served when it cannot be validated;
            0 for never.
        variance: What tells it from other responses of its primary key, 16 bytes.
        epoch_override: When its age was 0, wall clock seconds; None for ``updated``.
        tags: What it can be purged by.
        revalidate: Whether it is to be validated before each use (``no-cache``), so that it is
            never fresh and never served stale.
        variants_expired: When all variants of its primary key were made to expire, wall clock
            seconds; 0.0 if they were not.

    Raises:
        ValueError: If the variance has another size, or a stale window is negative.

    Attributes:
        epoch: When its age was 0, wall clock seconds; the other arguments are attributes, too.

    Examples:
        >>> from pingora_http import ResponseHeader
        >>> meta = CacheMeta(ResponseHeader(200), created=1000.0, fresh_until=1060.0)
        >>> meta.is_fresh(1060.0), meta.age(1010.0), meta.fresh_sec
        (True, 10.0, 60)

    Source: struct CacheMeta in pingora-cache/src/meta.rs.
    """

    __slots__ = (
        "_extensions",
        "created",
        "epoch",
        "epoch_override",
        "fresh_until",
        "header",
        "revalidate",
        "stale_if_error",
        "stale_while_revalidate",
        "tags",
        "updated",
        "variance",
        "variants_expired",
    )

    header: ResponseHeader
    created: float
    updated: float
    fresh_until: float
    stale_while_revalidate: int
    stale_if_error: int
    variance: bytes | None
    epoch_override: float | None
    epoch: float
    tags: tuple[bytes, ...]
    revalidate: bool
    variants_expired: float
    _extensions: dict[str, object] | None

    def __init__(  # noqa: PLR0913  # one for each thing that is known
        self,
        header: ResponseHeader,
        *,
        created: float,
        updated: float | None = None,
        fresh_until: float,
        stale_while_revalidate: int = 0,
        stale_if_error: int = 0,
        variance: bytes | None = None,
        epoch_override: float | None = None,
        tags: tuple[bytes, ...] = (),
        revalidate: bool = False,
        variants_expired: float = 0.0,
    ) -> None:
        self.header = header
        self.created = created
        self.updated = created if updated is None else updated
        self.fresh_until = fresh_until
        self.stale_while_revalidate = stale_while_revalidate
        self.stale_if_error = stale_if_error
        self.variance = variance
        self.epoch_override = epoch_override
        self.tags = tags
        self.revalidate = revalidate
        self.variants_expired = variants_expired
        self._extensions = None
        self._settle()

    def _settle(self) -> None:
        if self.variance is not None and len(self.variance) != 16:
            msg = f"a variance has 16 bytes, not {len(self.variance)}"
            raise ValueError(msg)
        if self.stale_while_revalidate < 0 or self.stale_if_error < 0:
            msg = "a stale window cannot be negative"
            raise ValueError(msg)
        self.epoch = self.updated if self.epoch_override is None else self.epoch_override

    # ------------------------------------------------------------------------- freshness

    def age(self, now: float) -> float:
        """Tell how old the response is.

        Args:
            now: Wall clock seconds.

        Returns:
            Seconds, never negative.
        """
        age = now - self.epoch
        return age if age > 0.0 else 0.0  # noqa: FURB136  # half the time of max()

    @property
    def fresh_sec(self) -> int:
        """Whole seconds from the epoch for which it is fresh, 0 if none: its ``max-age``."""
        seconds = self.fresh_until - self.epoch
        return int(seconds) if seconds > 0 else 0

    def is_fresh(self, now: float) -> bool:
        """Tell whether it may be served without asking the origin.

        Args:
            now: Wall clock seconds.

        Returns:
            True until ``fresh_until``, inclusive. False if it seems to come from the future, as
            it does when the clock has been set back, or is to be validated before each use.
        """
        return (
            self.fresh_until >= now
            and self.updated - now <= _FROM_THE_FUTURE
            and not self.revalidate
        )

    def serve_stale_while_revalidate(self, now: float) -> bool:
        """Tell whether the window is open in which it is served stale while being validated.

        Args:
            now: Wall clock seconds.

        Returns:
            Whether it is. That the response is stale is not looked at.
        """
        return self._may_be_stale(self.stale_while_revalidate, now)

    def serve_stale_if_error(self, now: float) -> bool:
        """Tell whether it may be served stale when it cannot be validated.

        Args:
            now: Wall clock seconds.

        Returns:
            Whether the window is open. That it is stale is not looked at.
        """
        return self._may_be_stale(self.stale_if_error, now)

    def _may_be_stale(self, window: int, now: float) -> bool:
        return window > 0 and self.fresh_until + window >= now and not self.revalidate

    # ------------------------------------------------------------------------- copies

    def replace(self, **changes: Unpack[MetaChanges]) -> Self:
        """Make a changed copy.

        Args:
            **changes: What is to be different, named as in the constructor.

        Returns:
            The copy. The head is the same object unless another is given; the extensions are
            copied.

        Raises:
            TypeError: If there is nothing of such a name.
        """
        new = object.__new__(type(self))
        for name in CacheMeta.__slots__:
            setattr(new, name, getattr(self, name))
        if self._extensions is not None:
            new._extensions = self._extensions.copy()
        for name, value in changes.items():
            if name not in MetaChanges.__optional_keys__:
                msg = f"a CacheMeta has no {name!r} to replace"
                raise TypeError(msg)
            setattr(new, name, value)
        new._settle()
        return new

    def without_stale(self) -> Self:
        """Make a copy that is never to be served stale.

        Returns:
            The copy.
        """
        return self.replace(stale_while_revalidate=0, stale_if_error=0)

    def expired(self, now: float) -> Self:
        """Make a copy that is not fresh any more, as a soft purge does.

        Args:
            now: Wall clock seconds.

        Returns:
            The copy. Its stale windows begin now, if it was still fresh.
        """
        return self.replace(fresh_until=min(self.fresh_until, now - 1.0))

    def following(self, old: CacheMeta) -> Self:
        """Make the copy that follows on another: what a purge has said of the variants stays.

        Args:
            old: What is stored of the same object.

        Returns:
            The copy.
        """
        return self.replace(variants_expired=max(self.variants_expired, old.variants_expired))

    # ------------------------------------------------------------------------- the rest

    @property
    def size(self) -> int:
        """Bytes that this counts for in a bounded store: about what it takes in memory."""
        items = self.header.raw_items
        text = sum(len(name) + len(value) for name, value in items)
        tags = sum(len(tag) + _TAG_SIZE for tag in self.tags)
        return _BASE_SIZE + _FIELD_SIZE * len(items) + text + tags

    @property
    def extensions(self) -> dict[str, object]:
        """What the application and its store tell one another. Never stored."""
        if self._extensions is None:
            self._extensions = {}
        return self._extensions

    def to_bytes(self) -> bytes:
        """Write down all but the extensions.

        Returns:
            The bytes.

        Raises:
            Error: ``CACHE_META_ERROR`` beyond 256 fields, 128 KiB of head or 4096 tags.
        """
        return join_parts(self.encode_fields(), self.encode_head())

    def encode_fields(self) -> bytes:
        """Write down all but head and extensions.

        Returns:
            A MessagePack array, in the layout of the original.

        Raises:
            Error: ``CACHE_META_ERROR`` if there are more tags than can be read back.
        """
        return encode_fields(
            MetaFields(
                self.fresh_until,
                self.created,
                self.updated,
                self.stale_while_revalidate,
                self.stale_if_error,
                self.variance,
                self.epoch_override,
                self.tags,
                self.revalidate,
                self.variants_expired,
            )
        )

    def encode_head(self) -> bytes:
        """Write down the head.

        Returns:
            HTTP/1 text.

        Raises:
            Error: ``CACHE_META_ERROR`` if it has more fields or bytes than can be read back.
        """
        return write_response_head(self.header, CACHE_META_ERROR)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what ``to_bytes`` has written.

        Args:
            data: The bytes, all of them.

        Returns:
            What was written.

        Raises:
            Error: ``CACHE_META_ERROR`` if they are anything else, or over a limit.
        """
        return cls.from_parts(*split_parts(data))

    @classmethod
    def from_parts(cls, fields: bytes, head: bytes) -> Self:
        """Read what ``encode_fields`` and ``encode_head`` have written.

        Args:
            fields: The MessagePack array, of any version of the original.
            head: HTTP/1 text.

        Returns:
            What was written.

        Raises:
            Error: ``CACHE_META_ERROR`` as ``from_bytes`` does.
        """
        known = decode_fields(fields)
        return cls(
            read_response_head(head, CACHE_META_ERROR),
            created=known.created,
            updated=known.updated,
            fresh_until=known.fresh_until,
            stale_while_revalidate=known.stale_while_revalidate,
            stale_if_error=known.stale_if_error,
            variance=known.variance,
            epoch_override=known.epoch_override,
            tags=known.tags,
            revalidate=known.revalidate,
            variants_expired=known.variants_expired,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CacheMeta):
            return NotImplemented
        return all(
            getattr(self, name) == getattr(other, name) for name in MetaChanges.__optional_keys__
        )

    # object says int; heads have none either
    __hash__: ClassVar[None] = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.header.status} created={self.created:.3f}"
            f" fresh_until={self.fresh_until:.3f}>"
        )
