"""Reading and writing headers of the PROXY protocol; no I/O.

Theory of operation. A connection begins with a header and nothing says how long that is, so
reading is one function over all that has arrived: it returns None while the bytes may still
become a header, and raises as soon as they cannot. It never looks beyond the header's end.

The sender may be many versions ahead. Unknown TLVs are kept, and unknown *addresses* are skipped
where the specification says so; what it forbids is refused.

Source: HAProxy's proxy-protocol.txt, section 2.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from pingora_core.protocols.address import InetAddress, UnixAddress
from pingora_core.protocols.proxy_protocol._crc32c import crc32c
from pingora_core.protocols.proxy_protocol.header import (
    MAX_UNIX_PATH,
    ProxyCommand,
    ProxyFamily,
    ProxyHeader,
    ProxyTransport,
)
from pingora_core.protocols.proxy_protocol.tlv import TlvType, encode_tlvs, parse_tlvs
from pingora_error import Custom, Error, ErrorSource

if TYPE_CHECKING:
    from pingora_core.protocols.address import SocketAddress
    from pingora_core.protocols.proxy_protocol.tlv import Tlv

__all__ = [
    "DEFAULT_MAX_SIZE",
    "MAX_SIZE",
    "PROXY_PROTOCOL_ERROR",
    "encode_proxy_header",
    "parse_proxy_header",
    "starts_like_proxy_header",
]

PROXY_PROTOCOL_ERROR: Final = Custom("ProxyProtocolError")
"""The bytes are no header, or a broken one."""

DEFAULT_MAX_SIZE: Final = 4096
"""Bytes of a whole header; a client certificate in it, the largest thing known, has 1 to 2 KiB."""

MAX_SIZE: Final = 16 + 65535
"""Bytes of the largest header that can be written."""

_V1_MAX: Final = 107
_V1_STARTS: Final = (b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN ", b"PROXY UNKNOWN\r\n")
_V1_LINE: Final = re.compile(
    rb"PROXY TCP(?:4 ([0-9.]{7,15}) ([0-9.]{7,15})|6 ([0-9A-Fa-f:.]{2,45}) ([0-9A-Fa-f:.]{2,45}))"
    rb" (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})\r\n"
)
_V1_UNKNOWN: Final = b"PROXY UNKNOWN\r\n"

_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_MARKS: Final = (b"PROXY ", _SIGNATURE)
_V2_HEAD: Final = 16
_CHECKSUM_SIZE: Final = 4
_ADDRESS_SIZES: Final = {
    ProxyFamily.UNSPEC: 0,
    ProxyFamily.INET: 4 + 4 + 2 + 2,
    ProxyFamily.INET6: 16 + 16 + 2 + 2,
    ProxyFamily.UNIX: 2 * MAX_UNIX_PATH,
}


def parse_proxy_header(
    data: bytes, *, max_size: int = DEFAULT_MAX_SIZE
) -> tuple[ProxyHeader, int] | None:
    r"""Read the header that a connection begins with.

    Args:
        data: The first bytes of the connection, and what follows them.
        max_size: Longest header, bytes; the length that a header gives for itself is checked
            before its end has arrived.

    Returns:
        The header and how many bytes it has; None if more are needed.

    Raises:
        Error: ``PROXY_PROTOCOL_ERROR`` from downstream if this cannot become a header that is
            valid and short enough.

    Examples:
        >>> parse_proxy_header(b"PROXY TCP4 192.0.2.1 198.51.100.7 5632") is None
        True
        >>> header, size = parse_proxy_header(b"PROXY UNKNOWN\r\nGET / HTTP/1.1")
        >>> header.source is None, size
        (True, 15)
    """
    try:
        if data[:1] == b"\r":
            return _parse_v2(data, max_size)
        return _parse_v1(data)
    except ValueError as error:
        raise Error(PROXY_PROTOCOL_ERROR, str(error), source=ErrorSource.DOWNSTREAM) from None


def starts_like_proxy_header(data: bytes) -> bool | None:
    """Tell whether bytes are the beginning of a header, right or wrong, of either version.

    Args:
        data: The first bytes of the connection.

    Returns:
        Whether they are; None if more are needed to tell.
    """
    if data.startswith(_MARKS):
        return True
    return None if any(mark.startswith(data) for mark in _MARKS) else False


# --------------------------------------------------------------------- version 1


def _parse_v1(data: bytes) -> tuple[ProxyHeader, int] | None:
    if not data.startswith(_V1_STARTS):
        if any(start.startswith(data) for start in _V1_STARTS):
            return None
        raise ValueError("neither version 1 nor version 2 of the PROXY protocol begins like this")
    end = data.find(b"\n", 0, _V1_MAX) + 1
    carriage_return = data.find(b"\r", 0, _V1_MAX)
    if carriage_return >= 0 and end != carriage_return + 2:
        # The last byte that has arrived may be half of the line's end.
        if end == 0 and carriage_return == len(data) - 1 < _V1_MAX - 1:
            return None
        raise ValueError("a CR or LF alone in a version 1 header")
    if end == 0:
        if len(data) >= _V1_MAX:
            raise ValueError(f"a version 1 header has no CRLF in its first {_V1_MAX} bytes")
        return None
    if carriage_return < 0:
        raise ValueError("a CR or LF alone in a version 1 header")
    if data.startswith(b"PROXY UNKNOWN"):
        return ProxyHeader(version=1), end
    line = _V1_LINE.fullmatch(data, 0, end)
    if line is None:
        raise ValueError("a malformed version 1 header")
    source4, destination4, source6, destination6, source_port, destination_port = line.groups()
    header = ProxyHeader(
        version=1,
        source=_v1_address(source4, source6, source_port),
        destination=_v1_address(destination4, destination6, destination_port),
    )
    return header, end


def _v1_address(host4: bytes | None, host6: bytes | None, port: bytes) -> InetAddress:
    host: ipaddress.IPv4Address | ipaddress.IPv6Address
    if host4 is not None:
        host = ipaddress.IPv4Address(host4.decode())
    else:
        assert host6 is not None
        host = ipaddress.IPv6Address(host6.decode())
    return InetAddress(_text(host), int(port))


def _text(host: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    # As the kernel's addresses are written; what str() makes of it depends on Python's version.
    mapped = host.ipv4_mapped if isinstance(host, ipaddress.IPv6Address) else None
    return str(host) if mapped is None else f"::ffff:{mapped}"


# --------------------------------------------------------------------- version 2


def _parse_v2(data: bytes, max_size: int) -> tuple[ProxyHeader, int] | None:
    # What is wrong in the bytes that are here is found before the others are waited for.
    start = data[: len(_SIGNATURE)]
    if not _SIGNATURE.startswith(start):
        raise ValueError("not the signature of the PROXY protocol")
    if len(data) <= len(_SIGNATURE):
        return None
    if data[12] >> 4 != 2:
        raise ValueError(f"version {data[12] >> 4} of the PROXY protocol is not known")
    command = ProxyCommand(data[12] & 15)
    if len(data) == len(_SIGNATURE) + 1:
        return None
    family = ProxyFamily(data[13] >> 4)
    transport = ProxyTransport(data[13] & 15)
    if len(data) < _V2_HEAD:
        return None
    end = _V2_HEAD + int.from_bytes(data[14:16], "big")
    if end > max_size:
        raise ValueError(f"a header of {end} bytes, allowed: {max_size}")
    # A half-specified protocol byte announces nothing that could be used.
    is_announced = ProxyFamily.UNSPEC is not family and ProxyTransport.UNSPEC is not transport
    if command is ProxyCommand.LOCAL or not is_announced:
        return None if len(data) < end else (_unannounced(data[:end], command, family), end)
    tlvs_at = _V2_HEAD + _ADDRESS_SIZES[family]
    if end < tlvs_at:
        raise ValueError(f"{end - _V2_HEAD} bytes are too few for addresses of {family.name}")
    if len(data) < end:
        return None
    source, destination = _v2_addresses(data[_V2_HEAD:tlvs_at], family)
    tlvs = parse_tlvs(data[tlvs_at:end])
    header = ProxyHeader(
        command=command,
        source=source,
        destination=destination,
        is_datagram=transport is ProxyTransport.DGRAM,
        tlvs=_without_checksum(tlvs),
        checksum=_verify_checksum(data[:end], tlvs),
    )
    return header, end


def _unannounced(raw: bytes, command: ProxyCommand, family: ProxyFamily) -> ProxyHeader:
    """Read a header whose addresses do not count.

    The receiver must accept whatever its block holds, and proxies in use put TLVs there.

    Returns:
        The header, with the TLVs if the block is made of them.
    """
    try:
        tlvs = parse_tlvs(raw[_V2_HEAD + _ADDRESS_SIZES[family] :])
        header = ProxyHeader(command=command, tlvs=_without_checksum(tlvs))
    except ValueError:
        return ProxyHeader(command=command)
    checksum = _verify_checksum(raw, tlvs)
    return replace(header, checksum=checksum)


def _without_checksum(tlvs: tuple[Tlv, ...]) -> tuple[Tlv, ...]:
    return tuple(tlv for tlv in tlvs if tlv[0] != TlvType.CRC32C)


def _verify_checksum(raw: bytes, tlvs: tuple[Tlv, ...]) -> bool:
    """Check the CRC32C of a header.

    Args:
        raw: The whole header.
        tlvs: Those at its end.

    Returns:
        Whether there is one.

    Raises:
        ValueError: If it is wrong, or there are several.
    """
    position = len(raw)
    found: int | None = None
    for kind, value in reversed(tlvs):
        if kind == TlvType.CRC32C:
            if found is not None or len(value) != _CHECKSUM_SIZE:
                raise ValueError("the checksum is not one of four bytes")
            found = position - len(value)
        position -= 3 + len(value)
    if found is None:
        return False
    rest = found + _CHECKSUM_SIZE
    expected = crc32c(raw[:found] + bytes(_CHECKSUM_SIZE) + raw[rest:])
    if int.from_bytes(raw[found:rest], "big") != expected:
        raise ValueError("the checksum of the header is wrong")
    return True


def _v2_addresses(block: bytes, family: ProxyFamily) -> tuple[SocketAddress, SocketAddress]:
    if family is ProxyFamily.UNIX:
        return _unix(block[:MAX_UNIX_PATH]), _unix(block[MAX_UNIX_PATH:])
    size = 4 if family is ProxyFamily.INET else 16
    source_port = int.from_bytes(block[-4:-2], "big")
    destination_port = int.from_bytes(block[-2:], "big")
    return (
        InetAddress(_text(ipaddress.ip_address(block[:size])), source_port),
        InetAddress(_text(ipaddress.ip_address(block[size : 2 * size])), destination_port),
    )


def _unix(field: bytes) -> UnixAddress:
    # A leading NUL is the abstract namespace's, unless nothing follows: an unnamed socket.
    name_end = field.find(b"\0", 1)
    path = field if name_end < 0 else field[:name_end]
    return UnixAddress("" if path == b"\0" else os.fsdecode(path))


# ----------------------------------------------------------------------- writing


def encode_proxy_header(header: ProxyHeader) -> bytes:
    """Write a header, to be sent before anything else and in one piece.

    Args:
        header: What to say.

    Returns:
        The bytes.

    Raises:
        ValueError: If the TLVs together are too long.
    """
    if header.version == 1:
        return _encode_v1(header)
    tlvs = encode_tlvs(header.tlvs)
    if header.checksum:
        tlvs += encode_tlvs([(TlvType.CRC32C, bytes(_CHECKSUM_SIZE))])
    block = _encode_addresses(header) + tlvs
    if len(block) > MAX_SIZE - _V2_HEAD:
        raise ValueError(f"a header of {_V2_HEAD + len(block)} bytes, allowed: {MAX_SIZE}")
    kinds = bytes((2 << 4 | header.command, header.family << 4 | header.transport))
    raw = _SIGNATURE + kinds + len(block).to_bytes(2, "big") + block
    if header.checksum:
        raw = raw[:-_CHECKSUM_SIZE] + crc32c(raw).to_bytes(_CHECKSUM_SIZE, "big")
    return raw


def _encode_v1(header: ProxyHeader) -> bytes:
    source, destination = header.source, header.destination
    if not isinstance(source, InetAddress) or not isinstance(destination, InetAddress):
        return _V1_UNKNOWN
    kind = 6 if source.is_ipv6 else 4
    line = f"PROXY TCP{kind} {source.host} {destination.host} {source.port} {destination.port}\r\n"
    return line.encode("ascii")


def _encode_addresses(header: ProxyHeader) -> bytes:
    source, destination = header.source, header.destination
    if isinstance(source, UnixAddress) and isinstance(destination, UnixAddress):
        return b"".join(
            os.fsencode(address.path).ljust(MAX_UNIX_PATH, b"\0")
            for address in (source, destination)
        )
    if isinstance(source, InetAddress) and isinstance(destination, InetAddress):
        return (
            ipaddress.ip_address(source.host).packed
            + ipaddress.ip_address(destination.host).packed
            + source.port.to_bytes(2, "big")
            + destination.port.to_bytes(2, "big")
        )
    return b""
