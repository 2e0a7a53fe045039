"""What a stream and its connection know of each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from pingora_core.protocols.interfaces import Stream

__all__ = ["Carrier", "Fields", "Head"]

S_contra = TypeVar("S_contra", contravariant=True)

Fields: TypeAlias = list[tuple[bytes, bytes]]


class Head(NamedTuple):
    """A header section that has arrived.

    Attributes:
        fields: Its fields, as they came.
        end: Whether the stream ends with it.
        kind: ``request``, ``informational``, ``response`` or ``trailers``.
    """

    fields: Fields
    end: bool
    kind: str


class Carrier(Protocol[S_contra]):
    """What a stream, of whatever class, needs of its connection.

    Attributes:
        loop: The event loop.
        stream: The bytes below.
        is_open: Whether frames can be sent.
    """

    loop: asyncio.AbstractEventLoop
    stream: Stream
    is_open: bool

    @property
    def sensitive(self) -> Callable[[bytes, bytes], tuple[bytes, bytes]]:
        """Makes a field that must not enter a compression table."""

    def credit(self, stream_id: int, size: int) -> None:
        """Let the peer send as many bytes more.

        Args:
            stream_id: On which stream.
            size: How many.
        """

    def send_headers(self, stream: S_contra, fields: Fields, *, end: bool) -> None:
        """Send a header section.

        Args:
            stream: On which stream.
            fields: The section.
            end: Whether the stream ends with it.
        """

    def pump(self, stream: S_contra) -> None:
        """Send what waits on a stream, as far as it may.

        Args:
            stream: Which.
        """

    def reset(self, stream: S_contra, code: int) -> None:
        """Give a stream up, unless it has ended in both directions.

        Args:
            stream: Which.
            code: Why.
        """
