"""The part of the Brotli binding that is used here, with types; the binding has none."""

from __future__ import annotations

from typing import Final, Protocol

import brotli  # type: ignore[import-untyped]  # the distribution has no types

__all__ = ["BROTLI_ERROR", "BrotliCompressor", "BrotliDecompressor", "compressor", "decompressor"]


class BrotliCompressor(Protocol):
    """``brotli.Compressor``."""

    def process(self, data: bytes, /) -> bytes:
        """Take input; output may be held back."""

    def flush(self) -> bytes:
        """Give everything that is held back, and go on."""

    def finish(self) -> bytes:
        """Give everything that is held back, and end the stream."""


class BrotliDecompressor(Protocol):
    """``brotli.Decompressor``."""

    def process(self, data: bytes, /, *, output_buffer_limit: int) -> bytes:
        """Take input, give output; what is over the limit comes with the next calls."""

    def is_finished(self) -> bool:
        """Tell whether the stream has ended and all its output was given."""

    def can_accept_more_data(self) -> bool:
        """Tell whether all input was used; if not, only empty input may follow."""


class _NewCompressor(Protocol):
    def __call__(self, *, quality: int, lgwin: int) -> BrotliCompressor: ...


class _NewDecompressor(Protocol):
    def __call__(self) -> BrotliDecompressor: ...


BROTLI_ERROR: Final[type[Exception]] = brotli.error

_new_compressor: _NewCompressor = brotli.Compressor
_new_decompressor: _NewDecompressor = brotli.Decompressor


def compressor(quality: int, window_bits: int) -> BrotliCompressor:
    """Make a compressor.

    Args:
        quality: 0 to 11.
        window_bits: Binary logarithm of the window in bytes, 10 to 24.

    Returns:
        The compressor.
    """
    return _new_compressor(quality=quality, lgwin=window_bits)


def decompressor() -> BrotliDecompressor:
    """Make a decompressor.

    Returns:
        The decompressor.
    """
    return _new_decompressor()
