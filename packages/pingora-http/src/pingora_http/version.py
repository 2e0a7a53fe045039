"""HTTP versions."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Version"]


class Version(IntEnum):
    """A version of HTTP; newer ones compare greater."""

    HTTP_09 = 9
    HTTP_10 = 10
    HTTP_11 = 11
    HTTP_2 = 20
    HTTP_3 = 30

    def __str__(self) -> str:
        return _TEXT[self]


_TEXT = {
    Version.HTTP_09: "HTTP/0.9",
    Version.HTTP_10: "HTTP/1.0",
    Version.HTTP_11: "HTTP/1.1",
    Version.HTTP_2: "HTTP/2",
    Version.HTTP_3: "HTTP/3",
}
