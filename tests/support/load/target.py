"""What the clients talk to, and what can happen to them."""

from __future__ import annotations

import asyncio
import json
import ssl
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, Self, TypeAlias

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter

    from tests.support.load.counts import Counts

__all__ = ["LIMIT", "Failed", "Front", "Raced", "Target", "client_tls"]

LIMIT = 60.0
"""Seconds that any one step of a client may take."""

Front: TypeAlias = Literal["plain", "tls", "uds"]


class Raced(Exception):  # noqa: N818 - it is an observation, not always an error
    """The server ended the connection before it could see the request: it may be sent again."""


class Failed(Exception):  # noqa: N818 - it is an observation of the client, not its own error
    """Something that must not happen to a client.

    Attributes:
        kind: What sort of thing.
        is_reset: Whether the connection was reset.
    """

    def __init__(self, kind: str, detail: object = "", *, is_reset: bool = False) -> None:
        super().__init__(f"{kind} {detail}")
        self.kind = kind
        self.detail = detail
        self.is_reset = is_reset

    @classmethod
    def of(cls, step: str, error: BaseException) -> Self:
        """Make it of what the operating system or a library says.

        Args:
            step: What was tried.
            error: What it says.
        """
        is_reset = isinstance(error, ConnectionResetError | BrokenPipeError)
        kind = "reset" if is_reset else type(error).__name__
        return cls(f"{step}: {kind}", repr(error), is_reset=is_reset)

    def count(self, counts: Counts) -> None:
        """Count it.

        Args:
            counts: Where.
        """
        counts.resets += self.is_reset
        counts.fail(self.kind, self.detail)


@dataclass(frozen=True, slots=True)
class Target:
    """The addresses of a server.

    Attributes:
        plain: ``host:port`` without TLS.
        tls: ``host:port`` with TLS, HTTP/2 and HTTP/1.
        uds: Path of a Unix socket.
        ca: PEM file of the authority that has signed its certificate.
    """

    plain: str
    tls: str
    uds: str
    ca: str

    def to_json(self) -> str:
        """Write it on one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Read what `to_json` has written.

        Args:
            line: The line.
        """
        return cls(**json.loads(line))

    async def connect(
        self, front: Front, alpn: str, counts: Counts
    ) -> tuple[StreamReader, StreamWriter]:
        """Open a connection.

        Args:
            front: To which of the addresses.
            alpn: The protocol that is spoken over TLS.
            counts: Where the connection is counted.

        Raises:
            Failed: If that is not possible.
        """
        counts.connections += 1
        try:
            async with asyncio.timeout(LIMIT):
                if front == "uds":
                    return await asyncio.open_unix_connection(self.uds)
                host, _, port = (self.tls if front == "tls" else self.plain).rpartition(":")
                context = client_tls(self.ca, alpn) if front == "tls" else None
                return await asyncio.open_connection(host, int(port), ssl=context)
        except OSError as error:
            raise Failed.of("connect", error) from error


@lru_cache(maxsize=8)
def client_tls(ca: str, alpn: str) -> ssl.SSLContext:
    """Make the context of a client.

    Args:
        ca: PEM file of the authority that it trusts.
        alpn: The protocol that it offers.
    """
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols([alpn])
    return context
