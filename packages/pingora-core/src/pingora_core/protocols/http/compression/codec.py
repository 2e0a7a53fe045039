"""The content codings, as machines that turn one stream of bytes into another.

Rules of this file: an encoder gives everything it was fed back at once (it flushes), so that a
small event is never held back. A decoder never gives more than its limit for one piece it is
fed; what would expand further is an error, found before the memory is spent.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol

from pingora_core.protocols.http.compression._decoders import (
    BrotliDecoder,
    GzipDecoder,
    ZstdDecoder,
)
from pingora_core.protocols.http.compression._encoders import (
    BrotliEncoder,
    GzipEncoder,
    ZstdEncoder,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["MAX_DECODED_CHUNK", "Algorithm", "Coder", "new_decoder", "new_encoder"]

# 256 times a 64 KiB read. Text compresses about 20:1 at best; only padding does better.
MAX_DECODED_CHUNK: Final = 16 * 1024 * 1024


class Algorithm(Enum):
    """A content coding; the value is its name in ``Accept-Encoding`` and ``Content-Encoding``.

    The order of the members is the order in which codings are tried when a client leaves the
    choice open (``*``): the most widely understood first.

    Source: pingora-core/src/protocols/http/compression/mod.rs; RFC 1952, 7932, 8878.
    """

    GZIP = "gzip"
    BROTLI = "br"
    ZSTD = "zstd"

    @classmethod
    def from_coding(cls, name: str) -> Algorithm | None:
        """Find the algorithm of a content coding.

        Args:
            name: One coding, in any case; ``x-gzip`` is gzip (RFC 9110 section 8.4.1.3).

        Returns:
            The algorithm, None for any other coding and for a list of codings.
        """
        return _BY_NAME.get(name.strip().lower())

    @property
    def max_level(self) -> int:
        """The highest level that is used; more is taken for this."""
        return _MAX_LEVEL[self]


_BY_NAME: Final[Mapping[str, Algorithm]] = {
    **{algorithm.value: algorithm for algorithm in Algorithm},
    "x-gzip": Algorithm.GZIP,
}
# Zstandard goes on to 22, but from 20 on it only adds window, and ours is fixed.
_MAX_LEVEL: Final[Mapping[Algorithm, int]] = {
    Algorithm.GZIP: 9,
    Algorithm.BROTLI: 11,
    Algorithm.ZSTD: 19,
}


class Coder(Protocol):
    """Turns a body into another, piece by piece; for one body only."""

    def process(self, data: bytes, *, end: bool) -> bytes:
        """Convert the next piece.

        Args:
            data: The piece; may be empty.
            end: Whether the body ends with it. Nothing may be fed after that.

        Returns:
            Everything that can be known of the output so far; may be empty.

        Raises:
            Error: ``COMPRESSION_ERROR`` when the conversion is impossible. The coder is of no
                use afterwards.
        """


_ENCODERS: Final[Mapping[Algorithm, Callable[[int], Coder]]] = {
    Algorithm.GZIP: GzipEncoder,
    Algorithm.BROTLI: BrotliEncoder,
    Algorithm.ZSTD: ZstdEncoder,
}
_DECODERS: Final[Mapping[Algorithm, Callable[[int], Coder]]] = {
    Algorithm.GZIP: GzipDecoder,
    Algorithm.BROTLI: BrotliDecoder,
    Algorithm.ZSTD: ZstdDecoder,
}


def new_encoder(algorithm: Algorithm, level: int) -> Coder:
    """Make an encoder.

    Args:
        algorithm: The coding to produce.
        level: 1, the fastest, up to the algorithm's ``max_level``; higher ones count as that.

    Returns:
        The encoder. Each piece it is fed can be decoded as soon as its output is there.

    Raises:
        Error: ``COMPRESSION_ERROR`` if the library refuses, say for lack of memory.
        ValueError: If the level is below 1.
    """
    if level < 1:
        msg = f"a compression level starts at 1, not {level}"
        raise ValueError(msg)
    return _ENCODERS[algorithm](min(level, algorithm.max_level))


def new_decoder(algorithm: Algorithm, *, max_output: int = MAX_DECODED_CHUNK) -> Coder:
    """Make a decoder.

    Its ``process`` fails on malformed input, on bytes after the end, when the body ends before
    the coded data does, and when one piece would expand beyond the limit. A body without a
    single byte counts as an empty one, as browsers have it.

    Args:
        algorithm: The coding to undo.
        max_output: Bytes that one fed piece may expand to. Up to one block of the algorithm
            (128 KiB, or 256 KiB for Brotli) may be made beyond it before it is noticed.

    Returns:
        The decoder.

    Raises:
        Error: ``COMPRESSION_ERROR`` if the library refuses, say for lack of memory.
        ValueError: If the limit is below 1.
    """
    if max_output < 1:
        msg = f"the limit for decoded bytes is at least 1, not {max_output}"
        raise ValueError(msg)
    return _DECODERS[algorithm](max_output)
