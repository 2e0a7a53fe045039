"""What a stored response can be purged by, besides its key.

An origin tags its responses in a field of its own, and has all of a tag purged at once: Cloudflare
calls the field ``Cache-Tag`` and separates by commas, Fastly calls it ``Surrogate-Key`` and
separates by white space. Tags are compared byte by byte: case counts.

The limits keep a hostile or careless origin from filling the index of tags. They are generous, and
a response that exceeds them is stored without the tags beyond them, with a warning in the log: a
purge by one of those does not find it.

Source: https://developers.cloudflare.com/cache/how-to/purge-cache/purge-by-tags/,
https://www.fastly.com/documentation/reference/http/http-headers/Surrogate-Key/.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from pingora_cache._meta_layout import MAX_TAGS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pingora_http import HeaderMap

__all__ = ["CACHE_TAG", "DEFAULT_TAG_FIELDS", "SURROGATE_KEY", "TagField", "parse_tags"]

_logger = logging.getLogger(__name__)

_DEFAULT_MAX_TAGS: Final = 1000
_DEFAULT_MAX_LENGTH: Final = 1024


class TagField(NamedTuple):
    """A response field that holds tags.

    Attributes:
        name: Its name, in any case.
        separator: What stands between tags: a comma, with or without white space around it, or
            white space.
    """

    name: str
    separator: Literal[",", " "]


CACHE_TAG: Final = TagField("Cache-Tag", ",")
"""Cloudflare's."""

SURROGATE_KEY: Final = TagField("Surrogate-Key", " ")
"""Fastly's."""

DEFAULT_TAG_FIELDS: Final = (CACHE_TAG, SURROGATE_KEY)
"""The fields that are read unless others are given."""


def parse_tags(
    header: HeaderMap,
    *,
    fields: Iterable[TagField] = DEFAULT_TAG_FIELDS,
    max_tags: int = _DEFAULT_MAX_TAGS,
    max_length: int = _DEFAULT_MAX_LENGTH,
) -> tuple[bytes, ...]:
    """Read the tags of a response.

    Args:
        header: The head of the response.
        fields: Which fields to look into, in order.
        max_tags: How many tags to take; the rest is left out. At most 4096, as many as a meta
            holds.
        max_length: How long a tag may be, in bytes; longer ones are left out.

    Returns:
        The tags in the order in which they are first seen, each once.

    Raises:
        ValueError: If there is room for fewer than no tags, or more than a meta holds.

    Examples:
        >>> from pingora_http import ResponseHeader
        >>> response = ResponseHeader(200, headers=[("Cache-Tag", "product, blog , product")])
        >>> parse_tags(response)
        (b'product', b'blog')
    """
    if not 0 <= max_tags <= MAX_TAGS:
        msg = f"there is room for 0 to {MAX_TAGS} tags, not for {max_tags}"
        raise ValueError(msg)
    tags: dict[bytes, None] = {}
    left_out = 0
    present = header.keys_lower()
    for name, separator in fields:
        key = name.lower().encode("latin-1", "replace")
        if key not in present:
            continue
        for value in header.get_all_raw(key):
            for tag in value.split(b",") if separator == "," else value.split():
                tag = tag.strip()  # noqa: PLW2901  # the same tag
                if not tag or tag in tags:
                    continue
                if len(tag) > max_length or len(tags) >= max_tags:
                    left_out += 1
                else:
                    tags[tag] = None
    if left_out:
        _logger.warning("left out %d cache tags: too many, or longer than %d", left_out, max_length)
    return tuple(tags)
