"""One request's stream on a connection to an upstream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pingora_core.protocols.http.v2._carrier import Carrier
from pingora_core.protocols.http.v2._frames import ErrorCode
from pingora_core.protocols.http.v2._stream import Http2Stream

if TYPE_CHECKING:
    from pingora_core.protocols.http.v2.options import Http2Options
    from pingora_error import Error

__all__ = ["ClientCarrier", "ClientStream"]


class ClientCarrier(Carrier[Http2Stream], Protocol):
    """What an upstream session needs of its connection.

    Attributes:
        options: How HTTP/2 is spoken on it.
    """

    options: Http2Options

    @property
    def peer_allows_extended_connect(self) -> bool:
        """Whether the upstream has announced RFC 8441."""

    def probe(self) -> None:
        """Find out whether the upstream is still there."""


class ClientStream(Http2Stream):
    """A stream that has no number until its request is sent.

    The numbers of streams must rise in the order in which their heads are sent (RFC 9113 section
    5.1.1), and between the moment a request gets its connection and the moment it is sent, the
    user's filters may take their time.

    Args:
        carrier: The connection.

    Attributes:
        carrier: The connection.
    """

    __slots__ = ("_is_cut", "carrier")

    def __init__(self, carrier: ClientCarrier) -> None:
        super().__init__(carrier, 0)
        self.carrier: ClientCarrier = carrier
        self._is_cut = False

    @property
    def has_end(self) -> bool:
        """Whether the upstream has ended its direction itself; bytes may lie unread.

        What comes after that does not take it back: a server that has answered may reset the
        stream with NO_ERROR so that the rest of the request is not sent (RFC 9113 section 8.1).
        """
        return self.is_receive_closed and not self._is_cut

    @property
    def waiting_heads(self) -> int:
        """Header sections that nobody has taken yet."""
        return len(self._heads)

    def lost(self, error: Error) -> None:
        """Note that the upstream has given the stream up or is gone; the connection calls this.

        Args:
            error: How.
        """
        self._cut()
        super().lost(error)

    def reset(self, code: int = ErrorCode.CANCEL) -> None:
        """Give the stream up, unless it has ended in both directions.

        Args:
            code: Why (RFC 9113 section 7).
        """
        self._cut()
        super().reset(code)

    def _cut(self) -> None:
        if not self.is_receive_closed:
            self._is_cut = True
