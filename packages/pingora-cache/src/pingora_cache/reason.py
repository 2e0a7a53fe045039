"""Why a response is not cached."""

from __future__ import annotations

from typing import ClassVar, Self, final

__all__ = ["NoCacheReason"]


@final
class NoCacheReason:
    """Why caching is off for a request, or a response was not stored.

    Immutable; two of the same name and kind are equal. The well-known ones are attributes of the class; an
    application adds its own with ``custom``.

    Args:
        name: The reason, for logs, counters and ``Cache-Status``.
        is_custom: Whether an application made it up.

    Attributes:
        name: The reason, for logs, counters and ``Cache-Status``.
        is_custom: Whether an application made it up.
        NEVER_ENABLED: Nobody switched caching on. Only the state at the beginning; not to be
            passed to ``HttpCache.disable``.
        ORIGIN_NOT_CACHE: The response says that it must not be stored, or nothing says it may.
        RESPONSE_TOO_LARGE: The response is larger than what may be stored.
        PREDICTED_RESPONSE_TOO_LARGE: Nobody knows how large the response will be, and the last one
            was too large.
        STORAGE_ERROR: The store is in trouble.
        INTERNAL_ERROR: Something in this process went wrong.
        DEFERRED: It may be stored, but by the next request rather than by this one.
        DECLINED_TO_UPSTREAM: The application answered in place of the upstream.
        UPSTREAM_ERROR: The upstream failed.
        CACHE_LOCK_GIVE_UP: The request that was waited for found the response uncacheable.
        CACHE_LOCK_TIMEOUT: The request that was waited for took too long.

    Examples:
        >>> print(NoCacheReason.ORIGIN_NOT_CACHE)
        OriginNotCache
        >>> NoCacheReason.custom("logged in").is_custom
        True

    Source: enum NoCacheReason in pingora-cache/src/lib.rs.
    """

    __slots__ = ("is_custom", "name")

    name: str
    is_custom: bool

    NEVER_ENABLED: ClassVar[NoCacheReason]
    ORIGIN_NOT_CACHE: ClassVar[NoCacheReason]
    RESPONSE_TOO_LARGE: ClassVar[NoCacheReason]
    PREDICTED_RESPONSE_TOO_LARGE: ClassVar[NoCacheReason]
    STORAGE_ERROR: ClassVar[NoCacheReason]
    INTERNAL_ERROR: ClassVar[NoCacheReason]
    DEFERRED: ClassVar[NoCacheReason]
    DECLINED_TO_UPSTREAM: ClassVar[NoCacheReason]
    UPSTREAM_ERROR: ClassVar[NoCacheReason]
    CACHE_LOCK_GIVE_UP: ClassVar[NoCacheReason]
    CACHE_LOCK_TIMEOUT: ClassVar[NoCacheReason]

    def __init__(self, name: str, *, is_custom: bool = False) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "is_custom", is_custom)

    @classmethod
    def custom(cls, text: str) -> Self:
        """Make a reason of the application's own.

        Args:
            text: The reason, in words; few different ones, since they are counted by name.

        Returns:
            The reason. It differs from a well-known one of the same name.
        """
        return cls(text, is_custom=True)

    def __setattr__(self, name: str, value: object) -> None:
        msg = f"a {type(self).__name__} is immutable"
        raise AttributeError(msg)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NoCacheReason):
            return NotImplemented
        return self.name == other.name and self.is_custom == other.is_custom

    def __hash__(self) -> int:
        return hash((self.name, self.is_custom))

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        custom = ", is_custom=True" if self.is_custom else ""
        return f"{type(self).__name__}({self.name!r}{custom})"


NoCacheReason.NEVER_ENABLED = NoCacheReason("NeverEnabled")
NoCacheReason.ORIGIN_NOT_CACHE = NoCacheReason("OriginNotCache")
NoCacheReason.RESPONSE_TOO_LARGE = NoCacheReason("ResponseTooLarge")
NoCacheReason.PREDICTED_RESPONSE_TOO_LARGE = NoCacheReason("PredictedResponseTooLarge")
NoCacheReason.STORAGE_ERROR = NoCacheReason("StorageError")
NoCacheReason.INTERNAL_ERROR = NoCacheReason("InternalError")
NoCacheReason.DEFERRED = NoCacheReason("Deferred")
NoCacheReason.DECLINED_TO_UPSTREAM = NoCacheReason("DeclinedToUpstream")
NoCacheReason.UPSTREAM_ERROR = NoCacheReason("UpstreamError")
NoCacheReason.CACHE_LOCK_GIVE_UP = NoCacheReason("CacheLockGiveUp")
NoCacheReason.CACHE_LOCK_TIMEOUT = NoCacheReason("CacheLockTimeout")
