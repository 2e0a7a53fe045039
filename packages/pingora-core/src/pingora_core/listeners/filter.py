"""Who may connect: asked once per connection, before anything is read from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, final

if TYPE_CHECKING:
    from pingora_core.protocols.address import SocketAddress

__all__ = ["AcceptAllFilter", "ConnectionFilter"]


class ConnectionFilter(Protocol):
    """Decides whether a connection is served.

    It is asked in the connection's own task, so a slow answer delays nobody else. An answer that
    takes too long, or an exception, counts as no.
    """

    async def should_accept(self, addr: SocketAddress | None, /) -> bool:
        """Decide about one connection.

        Args:
            addr: The client's address; None on a Unix socket.

        Returns:
            False to drop the connection without a word.
        """


@final
class AcceptAllFilter:
    """Lets everybody in; the same as no filter."""

    async def should_accept(self, addr: SocketAddress | None, /) -> bool:  # noqa: ARG002
        """Accept.

        Args:
            addr: Of no interest.

        Returns:
            True.
        """
        return True
