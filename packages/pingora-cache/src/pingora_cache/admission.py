"""What is worth storing: policies that see each request for something that is not in the cache.

Most of what is asked for once is never asked for again. To store it costs a write, and room that
other objects had. A policy that lets objects in at their second request saves nearly all of these
writes, and costs one more request to the origin for each object that is kept.

Source: the admission module of pingora-cache, release 0.9.
"""

from __future__ import annotations

import time
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol, final

from pingora_cache.eviction._keys import name_of
from pingora_cache.tinyufo._sketch import Sketch

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_cache.key import CompactCacheKey

__all__ = ["Admission", "AdmissionPolicy", "AlwaysAdmit", "NthRequest", "TinyLfuAdmission"]

_KEYS: Final = 65536


class Admission(Enum):
    """What a policy says about an object.

    Attributes:
        DEFER: It is not to be stored this time.
        READY: It is to be stored.
    """

    DEFER = "defer"
    READY = "ready"


class AdmissionPolicy(Protocol):
    """Decides which objects are stored."""

    def observe(self, key: CompactCacheKey, size: int | None) -> Admission:
        """Take note of a request for an object that is not in the cache, and judge it.

        Args:
            key: The key of the object.
            size: The size of its body, bytes; None if it is not known beforehand.

        Returns:
            Whether to store it.
        """


@final
class AlwaysAdmit:
    """Stores everything at once."""

    __slots__ = ()

    def observe(self, key: CompactCacheKey, size: int | None) -> Admission:  # noqa: ARG002
        """Judge an object.

        Args:
            key: Not used.
            size: Not used.

        Returns:
            ``READY``.
        """
        return Admission.READY


@final
class NthRequest:
    """Stores an object at its n-th request.

    It remembers keys in two generations. When the younger one is full, or as old as the window, it
    takes the place of the older one. So a request counts for one to two windows, and as long as
    fewer than ``keys`` others have come; a key that was asked for often enough is ready for as
    long.

    Args:
        n: Which request, at least 1; 1 stores everything at once.
        keys: How many keys a generation remembers, at least 1. Each takes about 150 bytes.
        window: For how long a request counts, seconds; None for as long as there is room.
        clock: Returns a monotonic time, seconds.

    Raises:
        ValueError: If a number is out of its range.

    Examples:
        >>> from pingora_cache.key import CompactCacheKey
        >>> policy = NthRequest(2)
        >>> policy.observe(CompactCacheKey(b"0123456789abcdef"), None)
        <Admission.DEFER: 'defer'>
        >>> policy.observe(CompactCacheKey(b"0123456789abcdef"), None)
        <Admission.READY: 'ready'>
    """

    __slots__ = ("_clock", "_keys", "_n", "_older", "_since", "_window", "_younger")

    def __init__(
        self,
        n: int = 2,
        *,
        keys: int = _KEYS,
        window: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if n < 1 or keys < 1 or (window is not None and window <= 0):
            msg = f"n ({n}) and keys ({keys}) are at least 1, window ({window}) is above 0"
            raise ValueError(msg)
        self._n = n
        self._keys = keys
        self._window = window
        self._clock = clock
        self._since = clock()
        self._younger: dict[bytes, int] = {}
        self._older: dict[bytes, int] = {}

    def observe(self, key: CompactCacheKey, size: int | None) -> Admission:  # noqa: ARG002
        """Count a request for an object, and judge it.

        Args:
            key: Its key.
            size: Not used.

        Returns:
            ``READY`` from the n-th request on.
        """
        if self._window is not None:
            self._pass_time(self._window)
        name = name_of(key)
        count = self._younger.get(name)
        if count is None:
            count = self._older.get(name, 0)
        if count < self._n:
            count += 1
        self._younger[name] = count
        if len(self._younger) >= self._keys:
            self._older, self._younger = self._younger, {}
            self._since = self._clock()
        return Admission.READY if count == self._n else Admission.DEFER

    def _pass_time(self, window: float) -> None:
        now = self._clock()
        age = now - self._since
        if age >= window:
            self._older = self._younger if age < 2 * window else {}
            self._younger = {}
            self._since = now


@final
class TinyLfuAdmission:
    """Stores an object that was asked for often enough lately, in a fixed amount of memory.

    It counts requests in a sketch, 16 bytes a key, whose counts fade: they are halved whenever
    eight times as many requests have been counted as there are keys. A count may be too high when
    more keys are asked for; then a few objects are stored too early.

    Args:
        requests: How many requests are enough, 1 to 255.
        keys: How many keys are told apart, at least 1.

    Raises:
        ValueError: If a number is out of its range.
    """

    __slots__ = ("_requests", "_sketch")

    def __init__(self, requests: int = 2, *, keys: int = _KEYS) -> None:
        if not 1 <= requests <= 255 or keys < 1:
            msg = f"1 to 255 requests ({requests}), at least 1 key ({keys})"
            raise ValueError(msg)
        self._requests = requests
        self._sketch = Sketch(keys)

    def observe(self, key: CompactCacheKey, size: int | None) -> Admission:  # noqa: ARG002
        """Count a request for an object, and judge it.

        Args:
            key: Its key.
            size: Not used.

        Returns:
            ``READY`` if there were enough requests.
        """
        count = self._sketch.add(hash(name_of(key)))
        return Admission.READY if count >= self._requests else Admission.DEFER
