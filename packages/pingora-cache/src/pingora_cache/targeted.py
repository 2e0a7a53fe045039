"""Cache control fields that are addressed to some caches only, and take the place of the others.

``CDN-Cache-Control`` and its like are dictionaries of structured fields. Such a field is read
strictly: if it is no dictionary, or the value of a directive is of the wrong type, all of it is
ignored, and the next one counts (RFC 9213 section 2.1).

``Surrogate-Control`` is older, and has its own syntax: what follows a semicolon names the one cache
that a directive is for, and ``max-age=60+30`` allows 30 seconds of being stale.

Source: RFC 9213; W3C Note "Edge Architecture Specification" 1.0 section 2.2.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from pingora_cache._directives import Directive
from pingora_cache._structured import InnerList, parse_dictionary

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pingora_cache._structured import Value
    from pingora_http import HeaderMap

__all__ = ["parse_surrogate_control", "parse_targeted", "select_targeted"]

_SECONDS: Final = frozenset({"max-age", "s-maxage", "stale-while-revalidate", "stale-if-error"})

_SURROGATE: Final = re.compile(
    rb"[ \t]*(?P<name>[a-z-]+)(?:=(?P<value>\"[^\"]*\"|[^,;\"]*))?(?P<target>[ \t]*;[^,]*)?[ \t]*(?:,|$)",
    re.IGNORECASE,
)


def select_targeted(header: HeaderMap, names: Iterable[bytes]) -> list[Directive] | None:
    """Read the first targeted field that is there, can be read, and says something.

    Args:
        header: The head of a response.
        names: The fields in their order of preference, in lower case.

    Returns:
        The directives; None if there is no such field, and ``Cache-Control`` counts.
    """
    for name in names:
        lines = header.get_all_raw(name)
        if lines and (directives := parse_targeted(lines)):
            return directives
    return None


def parse_targeted(lines: Iterable[bytes]) -> list[Directive] | None:
    """Read a targeted field.

    Args:
        lines: The values of all fields of the name, in their order.

    Returns:
        The directives as ``Cache-Control`` would have them, each once; None if the field must be
        ignored.

    Examples:
        >>> parse_targeted([b'max-age=60, private="a"'])
        [Directive(name='max-age', value=b'60'), Directive(name='private', value=b'"a"')]
        >>> parse_targeted([b'max-age="60"']) is None
        True
    """
    members = parse_dictionary(b",".join(lines).decode("latin-1"))
    if members is None:
        return None
    directives: list[Directive] = []
    for name, value in members.items():
        # A boolean is an int to Python, though not to the RFC.
        if name in _SECONDS and (isinstance(value, bool) or not isinstance(value, int)):
            return None
        directives.append(Directive(name, _text(value)))
    return directives


def _text(value: Value) -> bytes | None:
    if isinstance(value, InnerList):
        return b'"%b"' % b",".join(str(item).encode("latin-1") for item in value.items)
    # ``no-store=?0`` says neither yes nor no in any document: it counts as there.
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        return b'"%b"' % value.encode("latin-1")
    return value if isinstance(value, bytes) else str(value).encode()


def parse_surrogate_control(lines: Iterable[bytes]) -> list[Directive] | None:
    """Read ``Surrogate-Control``.

    Args:
        lines: The values of all fields of the name, in their order.

    Returns:
        The directives as ``Cache-Control`` would have them, without those that are for a cache
        with a name; None if nothing is left that tells how to cache.

    Examples:
        >>> parse_surrogate_control([b'max-age=60+30, content="ESI/1.0"'])[:2]
        [Directive(name='max-age', value=b'60'), Directive(name='stale-while-revalidate', value=b'30')]
        >>> parse_surrogate_control([b"no-store;abc"]) is None
        True
    """
    directives: list[Directive] = []
    for match in _SURROGATE.finditer(b",".join(lines)):
        if match["target"] is not None:
            continue
        match match["name"].lower():
            case b"no-store" | b"no-store-remote":
                directives.append(Directive("no-store", None))
            case b"max-age":
                fresh, _, stale = (match["value"] or b"").partition(b"+")
                directives.append(Directive("max-age", fresh.strip()))
                if stale:
                    directives.append(Directive("stale-while-revalidate", stale.strip()))
                    directives.append(Directive("stale-if-error", stale.strip()))
            case _:
                pass
    return directives or None
