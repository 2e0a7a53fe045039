"""The pieces in which a response travels, whatever the protocol version.

A response is ``HeaderTask`` (any number of 1xx before the final one), then ``BodyTask``s, then
at most one ``TrailerTask``. The task that ends the message says so with ``end``; ``DoneTask``
ends a message whose last piece could not know that it was the last. After a 101 the pieces are
``UpgradedBodyTask``s: raw bytes of the other protocol.

The classes are plain slotted objects, not frozen: one is made for each chunk of each response.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, final

if TYPE_CHECKING:
    from pingora_error import Error
    from pingora_http import HeaderMap, ResponseHeader

__all__ = [
    "BodyTask",
    "DoneTask",
    "FailedTask",
    "HeaderTask",
    "HttpTask",
    "TrailerTask",
    "UpgradedBodyTask",
]


@final
class HeaderTask:
    """A response head.

    Attributes:
        header: The head; informational (1xx) or final.
        end: True when no body and no trailers follow.
    """

    __slots__ = ("end", "header")

    def __init__(self, header: ResponseHeader, end: bool) -> None:  # noqa: FBT001 - Pingora's tuple
        self.header: ResponseHeader = header
        self.end: bool = end

    def __repr__(self) -> str:
        return f"HeaderTask({self.header!r}, end={self.end})"


@final
class BodyTask:
    """A piece of the body.

    Attributes:
        data: The decoded bytes; None when the piece only tells the end.
        end: True when neither body nor trailers follow.
    """

    __slots__ = ("data", "end")

    def __init__(self, data: bytes | None, end: bool) -> None:  # noqa: FBT001 - Pingora's tuple
        self.data: bytes | None = data
        self.end: bool = end

    def __repr__(self) -> str:
        size = 0 if self.data is None else len(self.data)
        return f"BodyTask({size} bytes, end={self.end})"


@final
class UpgradedBodyTask:
    """Bytes of the protocol that was switched to with a 101.

    Attributes:
        data: The raw bytes; None when the piece only tells the end.
        end: True when the sender has closed its direction.
    """

    __slots__ = ("data", "end")

    def __init__(self, data: bytes | None, end: bool) -> None:  # noqa: FBT001 - Pingora's tuple
        self.data: bytes | None = data
        self.end: bool = end

    def __repr__(self) -> str:
        size = 0 if self.data is None else len(self.data)
        return f"UpgradedBodyTask({size} bytes, end={self.end})"


@final
class TrailerTask:
    """The trailer section; always the last piece.

    Attributes:
        trailers: The fields; None when there are none.
    """

    __slots__ = ("trailers",)

    end = True

    def __init__(self, trailers: HeaderMap | None) -> None:
        self.trailers: HeaderMap | None = trailers

    def __repr__(self) -> str:
        return f"TrailerTask({self.trailers!r})"


@final
class DoneTask:
    """The message has ended."""

    __slots__ = ()

    end = True

    def __repr__(self) -> str:
        return "DoneTask()"


@final
class FailedTask:
    """The message cannot be completed.

    Attributes:
        error: Why.
    """

    __slots__ = ("error",)

    end = True

    def __init__(self, error: Error) -> None:
        self.error: Error = error

    def __repr__(self) -> str:
        return f"FailedTask({self.error!r})"


HttpTask: TypeAlias = HeaderTask | BodyTask | UpgradedBodyTask | TrailerTask | DoneTask | FailedTask
