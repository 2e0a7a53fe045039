"""A datagram service that remembers its clients: docs/how-to/l4-and-udp.md."""

from __future__ import annotations

from pingora_core.apps import DatagramApp
from pingora_core.protocols.l4 import Datagram
from pingora_core.services import DatagramService, Placement


class Counting(DatagramApp):
    """Tells each client how many datagrams it has sent."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}  # bound it where clients are many

    def datagram_received(self, datagram: Datagram) -> None:
        client = repr(datagram.sender)
        self.counts[client] = self.counts.get(client, 0) + 1
        datagram.reply(str(self.counts[client]).encode())


def counting(listen: str) -> DatagramService[Counting]:
    """Make the service, which runs in one worker."""
    service = DatagramService("counting", Counting())
    service.add_udp(listen)
    # --8<-- [start:placement]
    service.placement = Placement.ONE_WORKER
    # --8<-- [end:placement]
    return service
