"""JA4: what kind of client wrote a ClientHello, in 36 characters.

The fingerprint names the library and its settings rather than a person: all who run one browser
version share it. Order of ciphers and extensions does not matter, since browsers shuffle them.

Source: JA4 by FoxIO (BSD 3-Clause), technical_details/JA4.md.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pingora_core.protocols.tls.client_hello import ClientHello

__all__ = ["is_grease", "ja4", "ja4_raw"]

_SERVER_NAME: Final = 0
_ALPN: Final = 16
_SUPPORTED_VERSIONS: Final = 43
_VERSIONS: Final = {0x0304: "13", 0x0303: "12", 0x0302: "11", 0x0301: "10", 0x0300: "s3"}
_MAX_COUNT: Final = 99
_NOTHING: Final = "000000000000"


def ja4(hello: ClientHello, transport: Literal["t", "q"] = "t") -> str:
    """Compute the fingerprint of a client.

    Args:
        hello: Its ClientHello.
        transport: What carried it: "t" for TCP, "q" for QUIC.

    Returns:
        Such as ``t13d1516h2_8daaf6152771_e5627efa2ab1``.
    """
    start, ciphers, rest = _parts(hello, transport)
    return f"{start}_{_digest(ciphers)}_{_digest(rest)}"


def ja4_raw(hello: ClientHello, transport: Literal["t", "q"] = "t") -> str:
    """Write out what `ja4` hashes (JA4_r), for a person who asks why two clients differ.

    Args:
        hello: The ClientHello.
        transport: What carried it: "t" for TCP, "q" for QUIC.

    Returns:
        The same three parts with lists instead of digests; about 200 characters.
    """
    return "_".join(_parts(hello, transport))


def is_grease(value: int) -> bool:
    """Tell whether a number is reserved for testing the tolerance of servers (RFC 8701).

    Args:
        value: A cipher suite, extension, group, version or signature algorithm.

    Returns:
        Whether it is one of 0x0A0A, 0x1A1A, and so on to 0xFAFA.
    """
    return value & 0x0F0F == 0x0A0A and value >> 8 == value & 0xFF


def _parts(hello: ClientHello, transport: str) -> tuple[str, str, str]:
    ciphers = _without_grease(hello.cipher_suites)
    extensions = _without_grease(kind for kind, _ in hello.extensions)
    start = (
        f"{transport}{_version(hello)}{'d' if _SERVER_NAME in extensions else 'i'}"
        f"{min(len(ciphers), _MAX_COUNT):02d}{min(len(extensions), _MAX_COUNT):02d}{_alpn(hello)}"
    )
    hashed = sorted(kind for kind in extensions if kind not in {_SERVER_NAME, _ALPN})
    algorithms = _without_grease(hello.signature_algorithms)
    rest = _hex_list(hashed)
    if algorithms:
        rest = f"{rest}_{_hex_list(algorithms)}"
    return start, _hex_list(sorted(ciphers)), rest


def _version(hello: ClientHello) -> str:
    if hello.extension(_SUPPORTED_VERSIONS) is None:
        return _VERSIONS.get(hello.legacy_version, "00")
    offered = _without_grease(hello.supported_versions)
    return _VERSIONS.get(max(offered, default=0), "00")


def _alpn(hello: ClientHello) -> str:
    if not hello.alpn_protocols:
        return "00"
    protocol = hello.alpn_protocols[0]
    # On single bytes isalnum() means ASCII letters and digits.
    readable = protocol[:1].isalnum() and protocol[-1:].isalnum()
    text = protocol.decode("latin-1") if readable else protocol.hex()
    return text[0] + text[-1]


def _without_grease(values: Iterable[int]) -> list[int]:
    return [value for value in values if not is_grease(value)]


def _hex_list(values: Iterable[int]) -> str:
    return ",".join(f"{value:04x}" for value in values)


def _digest(text: str) -> str:
    # Nothing has a digest, too, but a row of zeros says so.
    return sha256(text.encode("ascii")).hexdigest()[:12] if text else _NOTHING
