"""A table of paths in which the longest prefix counts, as it does among nginx's locations."""

from __future__ import annotations

from collections import Counter
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["PathPrefixes"]

_V = TypeVar("_V")


class PathPrefixes(MutableMapping[str, _V]):
    """A mapping whose keys are prefixes of paths, whole segments only.

    ``/user/al`` is no prefix of ``/user/alice``. Slashes around a path do not count, and
    percent-encoding is decoded, once, in keys and in what is looked for: where a path leads does not
    depend on how it is written. What is sent on is not changed by that. Dots (``/a/../b``) are names
    like any other, for what they mean is for the server behind to say.

    Looking for the longest prefix takes as many steps as the longest key has segments, however
    many keys there are and however long the path is.

    Args:
        limit: How many keys there may be.

    Attributes:
        limit: As given.

    Examples:
        >>> routes = PathPrefixes[str]()
        >>> routes["/"] = "everybody"
        >>> routes["/user/alice/"] = "alice"
        >>> routes.longest("/user/al%69ce/lab"), routes.longest("/user/alicex")
        ('alice', 'everybody')
        >>> list(routes)
        ['/', '/user/alice']
    """

    __slots__ = ("_depth", "_depths", "_values", "limit")

    def __init__(self, limit: int = 100_000) -> None:
        self.limit: int = limit
        self._values: dict[str, _V] = {}
        # How many keys have how many segments, and the most of any.
        self._depths: Counter[int] = Counter()
        self._depth = 0

    def __getitem__(self, prefix: str) -> _V:
        return self._values[_clean(prefix)]

    def __setitem__(self, prefix: str, value: _V) -> None:
        prefix = _clean(prefix)
        if prefix not in self._values:
            if len(self._values) >= self.limit:
                msg = f"there are {self.limit} prefixes already"
                raise ValueError(msg)
            depth = prefix.count("/")
            self._depths[depth] += 1
            self._depth = max(self._depth, depth)
        self._values[prefix] = value

    def __delitem__(self, prefix: str) -> None:
        prefix = _clean(prefix)
        del self._values[prefix]
        depth = prefix.count("/")
        self._depths[depth] -= 1
        if not self._depths[depth]:
            del self._depths[depth]
            self._depth = max(self._depths, default=0)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def longest(self, path: str) -> _V | None:
        """Find the value of the longest prefix of a path.

        Args:
            path: The path of a request, without its query.

        Returns:
            The value; None if no key is a prefix.
        """
        values = self._values
        path = "/" + unquote(path).lstrip("/")
        # A prefix ends with a segment: at its end, or before the next slash.
        ends = [0]
        while len(ends) <= self._depth and ends[-1] >= 0:
            ends.append(path.find("/", ends[-1] + 1))
        if ends[-1] < 0:
            ends[-1] = len(path)
        for end in reversed(ends[1:]):
            if path[:end] in values:
                return values[path[:end]]
        return values.get("/")


def _clean(prefix: str) -> str:
    return "/" + unquote(prefix).strip("/")
