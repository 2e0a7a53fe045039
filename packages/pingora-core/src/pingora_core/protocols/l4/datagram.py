"""Datagrams: one that has arrived, and how they are received."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from pingora_core.protocols.address import InetAddress, socket_address_from_sockname
from pingora_core.protocols.l4._pktinfo import destination_of

if TYPE_CHECKING:
    from pingora_core.protocols.l4._pktinfo import Control

__all__ = ["Datagram", "DatagramCounts", "DatagramOptions", "DatagramSender", "SockAddr"]

SockAddr: TypeAlias = tuple[str, int] | tuple[str, int, int, int]
"""An address as the `socket` module has it; cheap, and good as a key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatagramOptions:
    """How datagrams are received and sent.

    Attributes:
        max_size: Longest datagram that is taken, bytes; what is longer is dropped and counted.
            No UDP datagram is longer than the default.
        batch: How many datagrams are read before others have their turn.
        send_queue: Bytes that may wait for room in the send buffer of the socket; what is beyond
            is dropped and counted.

    Raises:
        ValueError: If a number makes no sense.
    """

    max_size: int = 65535
    batch: int = 64
    send_queue: int = 262144

    def __post_init__(self) -> None:
        if not 1 <= self.max_size <= 65535 or self.batch < 1 or self.send_queue < 0:
            msg = f"{self!r}: wanted max_size in 1..65535, batch >= 1, send_queue >= 0"
            raise ValueError(msg)


@dataclass(slots=True)
class DatagramCounts:
    """What an endpoint has done so far.

    Attributes:
        received: Datagrams handed over.
        sent: Datagrams given to the kernel.
        oversized: Datagrams dropped because they are longer than the options allow.
        unsent: Datagrams dropped because too much was waiting to be sent.
        errors: Datagrams that could not be sent, and errors that the network has reported.
    """

    received: int = 0
    sent: int = 0
    oversized: int = 0
    unsent: int = 0
    errors: int = 0


class DatagramSender(Protocol):
    """What a datagram has come in by, and its answer goes out by: a ``DatagramEndpoint``."""

    @property
    def address(self) -> InetAddress:
        """What its socket is bound to."""

    def send(self, data: bytes, to: SockAddr, control: Control | None, /) -> bool:
        """Send a datagram.

        Args:
            data: What it holds.
            to: Where to.
            control: What says where it comes from; None to let the kernel choose.

        Returns:
            False if it was dropped.
        """

    def reply_control(self, control: Control, /) -> Control | None:
        """Turn what came with a datagram into what makes its answer leave from the same address.

        Args:
            control: As it was received.

        Returns:
            What to send with the answer; None to let the kernel choose.
        """


class Datagram:
    """One datagram that has arrived.

    Args:
        data: What it holds.
        sender: Where it came from.
        endpoint: What has received it.
        control: What the kernel told about its way; None where it was not asked.

    Attributes:
        data: What it holds; may be empty.
        sender: Where it came from, as the `socket` module has it.
        endpoint: What has received it.
    """

    __slots__ = ("_control", "data", "endpoint", "sender")

    def __init__(
        self, data: bytes, sender: SockAddr, endpoint: DatagramSender, control: Control | None
    ) -> None:
        self.data: bytes = data
        self.sender: SockAddr = sender
        self.endpoint: DatagramSender = endpoint
        self._control = control

    @property
    def peer_addr(self) -> InetAddress:
        """Where it came from."""
        address = socket_address_from_sockname(self.sender)
        assert isinstance(address, InetAddress)
        return address

    @property
    def local_addr(self) -> InetAddress:
        """Where it was sent to."""
        bound = self.endpoint.address
        if self._control is None:
            return bound
        return destination_of(self._control, bound.port) or bound

    def reply(self, data: bytes) -> bool:
        """Answer it, from the address that it was sent to.

        Args:
            data: The answer.

        Returns:
            False if it was dropped.
        """
        control = self._control
        endpoint = self.endpoint
        if control is not None:
            control = endpoint.reply_control(control)
        return endpoint.send(data, self.sender, control)

    def __repr__(self) -> str:
        return f"<Datagram of {len(self.data)} bytes from {self.peer_addr}>"
