"""Metas whose heads are made smaller by zstd, alone or with a dictionary.

Heads are small and alike: by themselves they hardly compress, with a dictionary trained on some of
them they shrink to a few dozen bytes. It pays where a meta travels or stays long, not in the memory
of one process, since reading one takes longer.

The codec reads what it writes and what ``CacheMeta.to_bytes`` writes, so that it can be switched
on for a store that is full. The dictionary has to stay: without it the metas written with it are
lost, and count as damaged.

Needs the extra ``zstd`` of this package.

Source: pingora-header-serde/src/lib.rs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import zstandard

from pingora_cache._head_text import MAX_HEAD_SIZE
from pingora_cache._meta_layout import join_parts, split_parts
from pingora_cache.meta import CACHE_META_ERROR, CacheMeta
from pingora_error import Error, ErrorType

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["MetaCodec", "train_dictionary"]

_PLAIN: Final = b"HTTP/"
_DEFAULT_LEVEL: Final = 3
_DEFAULT_DICTIONARY_SIZE: Final = 16 * 1024


class MetaCodec:
    """Writes and reads metas in less room. Not for several threads at once.

    Args:
        dictionary: What ``train_dictionary`` made, or any bytes that heads have in common; empty
            for none. Must be the same for writing and reading.
        level: How hard to try, 1 to 22.

    Raises:
        ValueError: If there is no such level, or the dictionary is damaged.

    Source: struct HeaderSerde in pingora-header-serde/src/lib.rs.
    """

    __slots__ = ("_compressor", "_decompressor")

    def __init__(self, dictionary: bytes = b"", *, level: int = _DEFAULT_LEVEL) -> None:
        if not 1 <= level <= zstandard.MAX_COMPRESSION_LEVEL:
            msg = f"there is no level {level}"
            raise ValueError(msg)
        try:
            shared = zstandard.ZstdCompressionDict(dictionary) if dictionary else None
            self._compressor = zstandard.ZstdCompressor(level=level, dict_data=shared)
            self._decompressor = zstandard.ZstdDecompressor(dict_data=shared)
        except zstandard.ZstdError as error:
            msg = "a damaged dictionary"
            raise ValueError(msg) from error

    def to_bytes(self, meta: CacheMeta) -> bytes:
        """Write a meta down.

        Args:
            meta: The meta.

        Returns:
            All but the extensions.

        Raises:
            Error: ``CACHE_META_ERROR`` if there is more than can be read back.
        """
        return join_parts(meta.encode_fields(), self._compressor.compress(meta.encode_head()))

    def from_bytes(self, data: bytes) -> CacheMeta:
        """Read what this codec, or ``CacheMeta.to_bytes``, has written.

        Args:
            data: The bytes, all of them.

        Returns:
            What was written.

        Raises:
            Error: ``CACHE_META_ERROR`` if they are anything else, were written with another
                dictionary, or exceed a limit.
        """
        fields, head = split_parts(data)
        if head[:5] != _PLAIN:
            head = self._decompress(head)
        return CacheMeta.from_parts(fields, head)

    def _decompress(self, head: bytes) -> bytes:
        try:
            # What the frame says is believed by the library, so it is looked at first; the limit
            # is for a frame that says nothing.
            if zstandard.frame_content_size(head) > MAX_HEAD_SIZE:
                raise Error(CACHE_META_ERROR, "a compressed head is too large")
            return self._decompressor.decompress(
                head, max_output_size=MAX_HEAD_SIZE, allow_extra_data=False
            )
        except (zstandard.ZstdError, MemoryError) as error:
            raise Error(CACHE_META_ERROR, "a compressed head", cause=error) from error


def train_dictionary(
    samples: Iterable[CacheMeta], *, size: int = _DEFAULT_DICTIONARY_SIZE
) -> bytes:
    """Make a dictionary of what the heads of some responses have in common.

    Args:
        samples: Metas as they occur, some hundred at least. Their values end up in the
            dictionary: it is as confidential as they are.
        size: How large to make it, bytes.

    Returns:
        The dictionary.

    Raises:
        Error: ``INTERNAL_ERROR`` if there are too few samples.
    """
    heads: list[bytes | bytearray | memoryview] = [meta.encode_head() for meta in samples]
    try:
        return zstandard.train_dictionary(size, heads).as_bytes()
    except zstandard.ZstdError as cause:
        context = f"training a dictionary with {len(heads)} heads"
        error = Error.internal(ErrorType.INTERNAL_ERROR, context, cause=cause)
        raise error from cause
