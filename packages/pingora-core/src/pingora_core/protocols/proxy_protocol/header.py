"""The header of the PROXY protocol as data."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final, Protocol

from pingora_core.protocols.address import InetAddress, UnixAddress
from pingora_core.protocols.proxy_protocol.tlv import ProxySsl, TlvType, check_tlvs, find_tlv

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pingora_core.protocols.address import SocketAddress
    from pingora_core.protocols.proxy_protocol.tlv import Tlv
    from pingora_core.protocols.ssl_digest import SslDigest

__all__ = [
    "MAX_UNIX_PATH",
    "AddressFacts",
    "ConnectionFacts",
    "ProxyCommand",
    "ProxyFamily",
    "ProxyHeader",
    "ProxyTransport",
]

MAX_UNIX_PATH: Final = 108
"""Bytes of a Unix socket's path in a header."""


class ProxyCommand(IntEnum):
    """Whom a connection is for.

    Attributes:
        LOCAL: For the proxy itself, such as a health check: what the socket says holds.
        PROXY: For a client of the proxy.
    """

    LOCAL = 0
    PROXY = 1


class ProxyFamily(IntEnum):
    """What kind of addresses a header announces."""

    UNSPEC = 0
    INET = 1
    INET6 = 2
    UNIX = 3


class ProxyTransport(IntEnum):
    """How the client reached the proxy."""

    UNSPEC = 0
    STREAM = 1
    DGRAM = 2


# The two protocols below are what `Digest` looks like from here. Naming the class itself would
# close a circle, because a digest holds a header.


class AddressFacts(Protocol):
    """What `ProxyHeader.from_digest` asks for addresses; `SocketDigest` has it."""

    @property
    def peer_addr(self) -> SocketAddress | None:
        """The client's address."""

    @property
    def local_addr(self) -> SocketAddress | None:
        """The address it connected to."""


class ConnectionFacts(Protocol):
    """What `ProxyHeader.from_digest` is made from; `Digest` has it."""

    @property
    def ssl_digest(self) -> SslDigest | None:
        """About TLS; None without."""

    @property
    def socket_digest(self) -> AddressFacts | None:
        """The addresses; None if there is no socket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyHeader:
    """A header: whom a connection is for, where it came from and where it went.

    It can be compared and hashed, and is part of the key under which connections that it was
    sent on are reused.

    Attributes:
        version: 1, a line of text, or 2, binary.
        command: Whether it is for a client or for the proxy itself; version 1 has ``PROXY`` only.
        source: The client; None if unknown, and always for ``LOCAL``.
        destination: What it connected to; of the same kind as the source.
        is_datagram: Whether the client used UDP or a Unix datagram socket; version 2 only.
        tlvs: Types and values in order, the checksum left out; version 2 only. In a ``LOCAL``
            header, or one of unknown addresses, what is not in this form is ignored.
        checksum: Whether a CRC32C comes with it: it was right, or is to be sent.

    Raises:
        ValueError: If the parts do not go together; the message says why.

    Examples:
        >>> ProxyHeader(
        ...     version=1,
        ...     source=InetAddress("192.0.2.1", 56324),
        ...     destination=InetAddress("198.51.100.7", 443),
        ... ).family
        <ProxyFamily.INET: 1>

    Source: HAProxy's proxy-protocol.txt, section 2.
    """

    version: int = 2
    command: ProxyCommand = ProxyCommand.PROXY
    source: SocketAddress | None = None
    destination: SocketAddress | None = None
    is_datagram: bool = False
    tlvs: tuple[Tlv, ...] = ()
    checksum: bool = False

    def __post_init__(self) -> None:
        if self.version not in {1, 2}:
            raise ValueError(f"the PROXY protocol has versions 1 and 2, not {self.version}")
        _check_addresses(self.source, self.destination)
        if self.source is None and self.is_datagram:
            raise ValueError("a header without addresses does not say datagram")
        if self.command is ProxyCommand.LOCAL and self.source is not None:
            raise ValueError("a LOCAL header announces no addresses")
        if self.version == 1 and (
            self.command is ProxyCommand.LOCAL
            or self.is_datagram
            or self.tlvs
            or self.checksum
            or isinstance(self.source, UnixAddress)
        ):
            raise ValueError("version 1 knows TCP over IPv4 and IPv6 only: no LOCAL, no TLVs")
        if find_tlv(self.tlvs, TlvType.CRC32C) is not None:
            raise ValueError("the checksum is asked for with checksum=True, not with a TLV")
        check_tlvs(self.tlvs)

    # ------------------------------------------------------------ constructors

    @classmethod
    def local(cls) -> ProxyHeader:
        """Make the header of a connection that is the proxy's own, such as a health check.

        Returns:
            A version 2 header.
        """
        return cls(command=ProxyCommand.LOCAL)

    @classmethod
    def from_digest(
        cls,
        digest: ConnectionFacts,
        *,
        version: int = 2,
        tlvs: Iterable[Tlv] = (),
        checksum: bool = False,
    ) -> ProxyHeader:
        """Make the header that announces a client, from the digest of its connection.

        In version 2 it tells about TLS too: ALPN, the name asked for (``AUTHORITY``), and in the
        ``SSL`` TLV version, cipher, group and client certificate.

        Args:
            digest: Of the client's connection, such as ``session.digest``. If that began with a
                header itself, what it announced is announced again.
            version: 1 or 2.
            tlvs: More to say; a type among them replaces what would be said of it.
            checksum: Whether to send a CRC32C.

        Returns:
            The header. It announces no addresses if there are none, or, in version 1, Unix
            sockets.

        Raises:
            ValueError: If version 1 is to have TLVs, or these are malformed.
        """
        given = tuple(tlvs)
        source, destination = _announceable(digest.socket_digest, version)
        if version == 2 and digest.ssl_digest is not None:
            kinds = {kind for kind, _ in given}
            facts = _describe_tls(digest.ssl_digest)
            given = (*(tlv for tlv in facts if tlv[0] not in kinds), *given)
        return cls(
            version=version,
            source=source,
            destination=destination,
            tlvs=given,
            checksum=checksum,
        )

    # --------------------------------------------------------------- questions

    @property
    def family(self) -> ProxyFamily:
        """What kind of addresses it announces."""
        source = self.source
        if source is None:
            return ProxyFamily.UNSPEC
        if isinstance(source, UnixAddress):
            return ProxyFamily.UNIX
        return ProxyFamily.INET6 if source.is_ipv6 else ProxyFamily.INET

    @property
    def transport(self) -> ProxyTransport:
        """How the client reached the proxy."""
        if self.source is None:
            return ProxyTransport.UNSPEC
        return ProxyTransport.DGRAM if self.is_datagram else ProxyTransport.STREAM

    def get(self, kind: int) -> bytes | None:
        """Find the value of a TLV.

        Args:
            kind: Its type, a `TlvType` or any other number.

        Returns:
            The first of this type; None if there is none.
        """
        return find_tlv(self.tlvs, kind)

    @property
    def alpn(self) -> bytes | None:
        """The protocol that is spoken, as ALPN names it."""
        return self.get(TlvType.ALPN)

    @property
    def authority(self) -> str | None:
        """The host name that the client asked for, usually in its SNI."""
        return self._text(TlvType.AUTHORITY, "utf-8")

    @property
    def unique_id(self) -> bytes | None:
        """What the proxy calls this connection."""
        return self.get(TlvType.UNIQUE_ID)

    @property
    def ssl(self) -> ProxySsl | None:
        """What is known of the client's TLS."""
        value = self.get(TlvType.SSL)
        return None if value is None else ProxySsl.parse(value)

    @property
    def netns(self) -> str | None:
        """Name of the network namespace that the client came from."""
        return self._text(TlvType.NETNS, "ascii")

    def _text(self, kind: TlvType, encoding: str) -> str | None:
        value = self.get(kind)
        return None if value is None else value.decode(encoding, "replace")


def _check_addresses(source: SocketAddress | None, destination: SocketAddress | None) -> None:
    if isinstance(source, InetAddress) and isinstance(destination, InetAddress):
        same = source.is_ipv6 is destination.is_ipv6
    else:
        same = type(source) is type(destination)
    if not same:
        raise ValueError(f"source {source} and destination {destination} are of different kinds")
    for address in (source, destination):
        if isinstance(address, UnixAddress):
            if len(os.fsencode(address.path)) > MAX_UNIX_PATH:
                raise ValueError(f"the path of {address} is longer than {MAX_UNIX_PATH} bytes")
            if "\0" in address.path[1:]:
                raise ValueError(f"the path of {address} has a NUL within")
        elif address is not None:
            if not 0 <= address.port <= 65535:
                raise ValueError(f"the port of {address} is not in 0..65535")
            ipaddress.ip_address(address.host)


def _announceable(
    addresses: AddressFacts | None, version: int
) -> tuple[SocketAddress | None, SocketAddress | None]:
    source = None if addresses is None else addresses.peer_addr
    destination = None if addresses is None else addresses.local_addr
    if isinstance(source, InetAddress) and isinstance(destination, InetAddress):
        # A dual-stack listener shows IPv4 clients as ::ffff:192.0.2.1.
        plain = _as_ipv4(source), _as_ipv4(destination)
        if not plain[0].is_ipv6 and not plain[1].is_ipv6:
            return plain
        if source.is_ipv6 is destination.is_ipv6:
            return source, destination
        return None, None
    if version == 2 and isinstance(source, UnixAddress) and isinstance(destination, UnixAddress):
        return source, destination
    return None, None


def _as_ipv4(address: InetAddress) -> InetAddress:
    if not address.is_ipv6:
        return address
    mapped = ipaddress.IPv6Address(address.host).ipv4_mapped
    return address if mapped is None else InetAddress(str(mapped), address.port)


def _describe_tls(tls: SslDigest) -> list[Tlv]:
    tlvs: list[Tlv] = []
    if tls.alpn:
        tlvs.append((TlvType.ALPN, tls.alpn))
    if tls.sni:
        tlvs.append((TlvType.AUTHORITY, tls.sni.encode("utf-8", "replace")))
    has_certificate = bool(tls.cert_digest)
    ssl = ProxySsl(
        has_certificate=has_certificate and not tls.resumed,
        has_session_certificate=has_certificate,
        # The specification's reading; HAProxy says 0 without a certificate too.
        verify=0 if tls.verified else 1,
        version=tls.version,
        common_name=tls.common_name,
        cipher=tls.cipher,
        group=tls.group,
    )
    tlvs.append(ssl.to_tlv())
    return tlvs
