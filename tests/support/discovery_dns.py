"""A DNS server on loopback that answers over UDP and TCP as a test tells it; a stand-in."""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["DnsResponder", "Question"]

Mode = Literal["answer", "drop", "servfail", "refused", "garbage"]


class Question(NamedTuple):
    """One question that arrived.

    Attributes:
        transport: ``udp`` or ``tcp``.
        name: The name asked for, absolute.
        kind: The type, such as ``A``.
    """

    transport: str
    name: str
    kind: str


@dataclass
class DnsResponder:
    """Answers from a table, cuts long answers short over UDP, and keeps count.

    Attributes:
        mode: What it does with questions; may be changed at any time.
        modes: The same for questions of one type, by its name.
        negative_ttl: Of the SOA that comes with the absence of something.
        glue: Whether the addresses of SRV targets are sent along.
        asked: All questions that arrived.
        port: Where it listens, on 127.0.0.1.
    """

    mode: Mode = "answer"
    modes: dict[str, Mode] = field(default_factory=dict)
    negative_ttl: int = 60
    glue: bool = False
    asked: list[Question] = field(default_factory=list)
    port: int = 0
    _records: dict[tuple[str, str], dns.rrset.RRset] = field(default_factory=dict)
    _transport: asyncio.DatagramTransport | None = None
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"127.0.0.1:{self.port}"

    def set(self, name: str, kind: str, values: Iterable[str], ttl: int = 60) -> None:
        """Put records in place of those that there are.

        Args:
            name: The name, with or without a final dot.
            kind: The type, such as ``SRV``.
            values: The records as text; none for a name that exists without any of this type.
            ttl: Their time to live, seconds.
        """
        key = (dns.name.from_text(name).to_text().lower(), kind)
        values = list(values)
        if values:
            self._records[key] = dns.rrset.from_text_list(key[0], ttl, "IN", kind, values)
        else:
            self._records[key] = dns.rrset.RRset(
                dns.name.from_text(name), dns.rdataclass.IN, dns.rdatatype.from_text(kind)
            )

    def remove(self, name: str, kind: str) -> None:
        """Forget records.

        Args:
            name: The name.
            kind: The type.
        """
        del self._records[dns.name.from_text(name).to_text().lower(), kind]

    def count(self, kind: str) -> int:
        """Count the questions of one type so far.

        Args:
            kind: The type.

        Returns:
            How many.
        """
        return sum(question.kind == kind for question in self.asked)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for _ in range(20):
            self._server = await asyncio.start_server(self._serve_tcp, "127.0.0.1", 0)
            self.port = self._server.sockets[0].getsockname()[1]
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            try:
                sock.setblocking(False)
                sock.bind(("127.0.0.1", self.port))
            except OSError:
                # Somebody else has the same port for UDP.
                sock.close()
                self._server.close()
                continue
            self._transport, _ = await loop.create_datagram_endpoint(
                lambda: _Datagrams(self), sock=sock
            )
            return self
        msg = "no port is free for UDP and TCP"
        raise RuntimeError(msg)

    async def __aexit__(self, *_: object) -> None:
        assert self._transport is not None
        assert self._server is not None
        self._transport.close()
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()

    def answer_datagram(self, wire: bytes, client: tuple[str | object, int]) -> None:
        """Answer a question that came over UDP.

        Args:
            wire: The question.
            client: Who asks.
        """
        answer = self.answer(wire, "udp")
        if answer is not None and self._transport is not None:
            self._transport.sendto(answer, client)

    def answer(self, wire: bytes, transport: str) -> bytes | None:
        """Answer one question.

        Args:
            wire: The question.
            transport: ``udp`` or ``tcp``.

        Returns:
            The answer; None to say nothing.
        """
        query = dns.message.from_wire(wire)
        question = query.question[0]
        kind = dns.rdatatype.to_text(question.rdtype)
        name = question.name.to_text().lower()
        self.asked.append(Question(transport, name, kind))
        mode = self.modes.get(kind, self.mode)
        if mode == "drop":
            return None
        if mode == "garbage":
            return wire[:2] + b"\xff" * 9
        if mode != "answer":
            failure = dns.message.make_response(query)
            failure.set_rcode(dns.rcode.from_text(mode.upper()))
            return failure.to_wire()
        response = self._respond(query, name, kind)
        if transport == "tcp":
            return response.to_wire(max_size=65535)
        limit = max(query.payload, 512) if query.edns >= 0 else 512
        full = response.to_wire(max_size=65535)
        if len(full) <= limit:
            return full
        short = dns.message.make_response(query)
        short.flags |= dns.flags.TC
        return short.to_wire()

    def _respond(self, query: dns.message.Message, name: str, kind: str) -> dns.message.Message:
        response = dns.message.make_response(query, recursion_available=True)
        records = self._records.get((name, kind))
        if records is not None and len(records):
            response.answer.append(records)
            if self.glue and kind == "SRV":
                targets = {record.target.to_text().lower() for record in records}
                response.additional += [
                    rrset
                    for (host, _), rrset in self._records.items()
                    if host in targets and len(rrset)
                ]
            return response
        if not any(known == name for known, _ in self._records):
            response.set_rcode(dns.rcode.NXDOMAIN)
        soa = f"ns.test. admin.test. 1 3600 600 86400 {self.negative_ttl}"
        response.authority.append(dns.rrset.from_text("test.", self.negative_ttl, "IN", "SOA", soa))
        return response

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                answer = self.answer(await reader.readexactly(length), "tcp")
                if answer is not None:
                    writer.write(struct.pack("!H", len(answer)) + answer)
                    await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, responder: DnsResponder) -> None:
        self._responder = responder

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        self._responder.answer_datagram(data, addr)
