"""One 64-bit number for each key, which is all that the counters remember of it.

Theory of operation: text and bytes are hashed by Python's own SipHash, whose secret is drawn when
the interpreter starts: nobody outside can choose keys that collide, and forked processes agree.
That the counters keep the number and not the key bounds their memory, however long a key is, and
keeps the addresses of clients out of it. Two of a million keys share a number with a chance of one
in thirty million; they would share their counts. A fixed ``PYTHONHASHSEED`` gives the secret away.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final, TypeAlias

__all__ = ["Key", "encode_key", "hash_key"]

Key: TypeAlias = str | bytes | int

# Python gives "a" and b"a" the same hash, but they are different keys.
_BYTES: Final = 0x5BD1_E995_9D2C_5681
_LONGEST_ENCODED: Final = 64


def hash_key(key: Key) -> int:
    """Hash a key.

    Args:
        key: Of whatever length; an integer of whatever size.

    Returns:
        A signed number of 64 bits, the same in this process and in all that it forks.

    Raises:
        TypeError: If the key is none of these.
    """
    if isinstance(key, str):
        return hash(key)
    if isinstance(key, bytes):
        return hash(key) ^ _BYTES
    # Not hash(key), which is no secret for an integer.
    return hash(_digits(key)) ^ ~_BYTES


def encode_key(key: Key) -> bytes:
    """Write a key so that every machine writes it alike.

    Args:
        key: As for ``hash_key``.

    Returns:
        At most 66 bytes: the key itself with its type before it, or a digest of a long one.

    Raises:
        TypeError: If the key is none of these.
    """
    if isinstance(key, str):
        kind, data = b"s", key.encode("utf-8", "surrogatepass")
    elif isinstance(key, bytes):
        kind, data = b"b", key
    else:
        kind, data = b"i", _digits(key)
    if len(data) > _LONGEST_ENCODED:
        return kind + b"#" + blake2b(data, digest_size=24).hexdigest().encode()
    return kind + b":" + data


def _digits(key: int) -> bytes:
    try:
        return b"%x" % key
    except TypeError:
        msg = f"a key is str, bytes or int, not {type(key).__name__}"
        raise TypeError(msg) from None
