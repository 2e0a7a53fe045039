"""Encoders that flush after every piece.

The windows are kept at 512 KiB, so that a response in flight costs a few MiB at most, whatever
the level (nginx's brotli module has the same default).
"""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import Final

import zstandard

from pingora_core.protocols.http.compression import _brotli
from pingora_error import COMPRESSION_ERROR, Error

__all__ = ["BrotliEncoder", "GzipEncoder", "ZstdEncoder"]

_WINDOW_BITS: Final = 19
# 15 is the largest window of deflate (32 KiB); 16 more asks for the gzip container.
_GZIP_WBITS: Final = 16 + 15


class GzipEncoder:
    """RFC 1952; see ``codec.Coder``."""

    __slots__ = ("_stream",)

    def __init__(self, level: int) -> None:
        try:
            self._stream = zlib.compressobj(level, zlib.DEFLATED, _GZIP_WBITS)
        except (zlib.error, ValueError, MemoryError) as error:
            raise Error(COMPRESSION_ERROR, "cannot encode gzip", cause=error) from error

    def process(self, data: bytes, *, end: bool) -> bytes:
        """Encode the next piece; see ``codec.Coder``.

        Returns:
            What stands for it.

        Raises:
            Error: ``COMPRESSION_ERROR`` when the library fails.
        """
        if not data and not end:
            return b""  # An empty flush would still cost bytes.
        stream = self._stream
        try:
            out = stream.compress(data)
            return out + stream.flush(zlib.Z_FINISH if end else zlib.Z_SYNC_FLUSH)
        except (zlib.error, MemoryError) as error:
            raise Error(COMPRESSION_ERROR, "cannot encode gzip", cause=error) from error


class BrotliEncoder:
    """RFC 7932; see ``codec.Coder``."""

    __slots__ = ("_stream",)

    def __init__(self, level: int) -> None:
        try:
            self._stream = _brotli.compressor(level, _WINDOW_BITS)
        except (_brotli.BROTLI_ERROR, MemoryError) as error:
            raise Error(COMPRESSION_ERROR, "cannot encode br", cause=error) from error

    def process(self, data: bytes, *, end: bool) -> bytes:
        """Encode the next piece; see ``codec.Coder``.

        Returns:
            What stands for it.

        Raises:
            Error: ``COMPRESSION_ERROR`` when the library fails.
        """
        if not data and not end:
            return b""
        stream = self._stream
        try:
            out = stream.process(data)
            return out + (stream.finish() if end else stream.flush())
        except (_brotli.BROTLI_ERROR, MemoryError) as error:
            raise Error(COMPRESSION_ERROR, "cannot encode br", cause=error) from error


class ZstdEncoder:
    """RFC 8878, within the 8 MiB window of RFC 9659; see ``codec.Coder``."""

    __slots__ = ("_stream",)

    def __init__(self, level: int) -> None:
        try:
            self._stream = zstandard.ZstdCompressor(
                compression_params=_zstd_parameters(level)
            ).compressobj()
        except (zstandard.ZstdError, ValueError, MemoryError) as error:
            raise Error(COMPRESSION_ERROR, "cannot encode zstd", cause=error) from error

    def process(self, data: bytes, *, end: bool) -> bytes:
        """Encode the next piece; see ``codec.Coder``.

        Returns:
            What stands for it.

        Raises:
            Error: ``COMPRESSION_ERROR`` when the library fails.
        """
        if not data and not end:
            return b""
        stream = self._stream
        try:
            out = stream.compress(data)
            return out + stream.flush(
                zstandard.COMPRESSOBJ_FLUSH_FINISH if end else zstandard.COMPRESSOBJ_FLUSH_BLOCK
            )
        except (zstandard.ZstdError, MemoryError) as error:
            raise Error(COMPRESSION_ERROR, "cannot encode zstd", cause=error) from error


@lru_cache(maxsize=32)
def _zstd_parameters(level: int) -> zstandard.ZstdCompressionParameters:
    # The size only sizes the tables to the window: 1.3 MB instead of 85 MB at level 19.
    return zstandard.ZstdCompressionParameters.from_level(
        level, source_size=1 << _WINDOW_BITS, window_log=_WINDOW_BITS
    )
