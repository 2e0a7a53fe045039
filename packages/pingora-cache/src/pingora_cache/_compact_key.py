"""The hashes that keys are reduced to, and the key that consists of them only."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final, NamedTuple

from pingora_error import Custom, Error

__all__ = [
    "CACHE_KEY_ERROR",
    "CompactCacheKey",
    "check_hash",
    "encode_text",
    "hash_bytes",
    "parse_hex",
]

CACHE_KEY_ERROR: Final = Custom("CacheKeyError")
"""Bytes that were taken for a key are none."""

_HASH_SIZE: Final = 16


def hash_bytes(data: bytes) -> bytes:
    """Hash bytes the way keys are hashed.

    Args:
        data: The bytes.

    Returns:
        16 bytes of BLAKE2b, the same in every process and on every machine.
    """
    return blake2b(data, digest_size=16).digest()


def parse_hex(text: str) -> bytes | None:
    """Read a hash as it is written in logs.

    Args:
        text: 32 hexadecimal digits.

    Returns:
        The 16 bytes; None if the text is anything else.

    Source: fn str2hex in pingora-cache/src/key.rs.
    """
    if len(text) != 2 * _HASH_SIZE or not text.isascii() or not text.isalnum():
        return None
    try:
        return bytes.fromhex(text)
    except ValueError:
        return None


def encode_text(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")


def check_hash(what: str, value: bytes | None) -> None:
    if value is not None and len(value) != _HASH_SIZE:
        msg = f"a {what} has {_HASH_SIZE} bytes, not {len(value)}"
        raise ValueError(msg)


class CompactCacheKey(NamedTuple):
    """What a store keeps of a key: hashes only.

    Immutable, with the equality of a tuple: made to be the key of a dictionary.

    Attributes:
        primary: The hash of the primary key, 16 bytes.
        variance: What tells the variants of the primary key apart, 16 bytes; None if there is
            nothing to tell.
        user_tag: Whom the object is accounted to.

    Source: struct CompactCacheKey in pingora-cache/src/key.rs.
    """

    primary: bytes
    variance: bytes | None = None
    user_tag: str = ""

    @property
    def combined_hash(self) -> bytes:
        """The hash of primary key and variance together, 16 bytes."""
        variance = self.variance
        return self.primary if variance is None else hash_bytes(self.primary + variance)

    @property
    def hex(self) -> str:
        """The combined hash as text: 32 digits in lower case."""
        return self.combined_hash.hex()

    def to_bytes(self) -> bytes:
        """Write the key in a form that takes little room.

        Returns:
            17 bytes, 16 more for a variance, and the user tag as UTF-8.
        """
        tag = self.user_tag.encode("utf-8", "surrogatepass")
        if self.variance is None:
            return b"%b\0%b" % (self.primary, tag)
        return b"%b\1%b%b" % (self.primary, self.variance, tag)

    @classmethod
    def from_bytes(cls, data: bytes) -> CompactCacheKey:
        """Read what ``to_bytes`` has written.

        Args:
            data: The bytes, all of them.

        Returns:
            The key.

        Raises:
            Error: ``CACHE_KEY_ERROR`` if they are anything else.
        """
        flag = data[16:17]
        if flag not in {b"\0", b"\1"}:
            raise Error(CACHE_KEY_ERROR, "a compact key is too short or of an unknown kind")
        variance, rest = (None, data[17:]) if flag == b"\0" else (data[17:33], data[33:])
        if variance is not None and len(variance) != _HASH_SIZE:
            raise Error(CACHE_KEY_ERROR, "a compact key ends within its variance")
        try:
            tag = rest.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            raise Error(CACHE_KEY_ERROR, "the user tag of a compact key", cause=error) from error
        return cls(data[:16], variance, tag)

    def __str__(self) -> str:
        variance = "" if self.variance is None else f", variance: {self.variance.hex()}"
        return f"{self.primary.hex()}{variance}, user_tag: {self.user_tag}"
