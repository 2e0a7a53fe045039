"""What tells the variants of one primary key apart.

The variance is the hash of names and values, whatever they stand for: the request fields that
``Vary`` names, or what the application derives from the request (a device class, a language).

Source: pingora-cache/src/variance.rs.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from pingora_cache._key_parts import encode_parts
from pingora_cache.key import hash_bytes

__all__ = ["VarianceBuilder"]

_WITH_ZEROS: Final = b"pingora-cache v0"


class VarianceBuilder:
    """Collects names and values, and hashes them; their order does not matter.

    Examples:
        >>> builder = VarianceBuilder()
        >>> builder.finalize() is None
        True
        >>> builder.add_value("accept", "text/html")
        >>> builder.add_value("accept", "image/png")  # replaces the other
        >>> len(builder.finalize() or b"")
        16

    Source: struct VarianceBuilder in pingora-cache/src/variance.rs.
    """

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}

    def add_value(self, name: str | bytes, value: str | bytes) -> None:
        """Add a value, replacing an earlier one of the name.

        Args:
            name: What it is called. Text is encoded as UTF-8.
            value: What it is. Text is encoded as UTF-8.
        """
        key = name if isinstance(name, bytes) else name.encode("utf-8", "surrogatepass")
        data = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
        self._values[key] = data

    @property
    def has_variance(self) -> bool:
        """Whether any value was added."""
        return bool(self._values)

    def finalize(self) -> bytes | None:
        """Hash what was added.

        Returns:
            16 bytes; None if nothing was added.
        """
        values = self._values
        if not values:
            return None
        # The original ends each name and value by a zero. No field has one; what has one is
        # written with lengths instead, so that two different sets never meet.
        pairs = [part for name in sorted(values) for part in (name, values[name])]
        text = b"\0".join(pairs) + b"\0"
        if text.count(b"\0") == len(pairs):
            return hash_bytes(text)
        return blake2b(encode_parts(pairs), digest_size=16, person=_WITH_ZEROS).digest()
