"""The versions of HTTP."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Version"]


class Version(IntEnum):
    """A version of HTTP: ten times the major number plus the minor one, so that they compare.

    Examples:
        >>> str(Version.HTTP_11), Version.HTTP_10 < Version.HTTP_11
        ('HTTP/1.1', True)
    """

    HTTP_09 = 9
    HTTP_10 = 10
    HTTP_11 = 11
    HTTP_20 = 20
    HTTP_30 = 30

    def __str__(self) -> str:
        return f"HTTP/{self // 10}.{self % 10}"
