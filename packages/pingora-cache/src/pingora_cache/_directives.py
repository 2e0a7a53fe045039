"""Takes the value of ``Cache-Control`` apart, and its directives' values.

Theory of operation
-------------------
Responses in the wild are sloppy, so that reading is permissive the way Pingora is: directives end
at a comma or a semicolon, names may hold bytes beyond ASCII, numbers may be in quotes, and what is
no directive is passed over. One thing is not tolerated. A quote that is left over, outside any
value that was understood, means that another reader could find a directive where this one sees
text, or the other way around (does ``a="b, no-store`` forbid storing?). Such a field is not *well
formed*, and nobody should store what it came with. Everything else has one reading, however its
lines are joined or split; a property test holds this module to that.

Source: RFC 9111 section 5.2; RFC 9110 sections 5.3 and 5.6; pingora-cache/src/cache_control.rs.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from pingora_http.grammar import is_token

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "DELTA_SECONDS_MAX",
    "Directive",
    "Parsed",
    "delta_seconds",
    "field_names",
    "list_items",
    "parse",
    "unquote",
]

DELTA_SECONDS_MAX: Final = 2147483647
"""What a number of seconds that is too large is taken for: 68 years (RFC 9111 section 1.2.2)."""

_U32_DIGITS: Final = 10

_TOKEN: Final = rb'[^\x00-\x20()<>@,;:\\"/\[\]?={}\x7f]+'
_QUOTED: Final = rb'"(?:[^"\\]|\\.)*"'
# Nothing before the separator: white space there would be tried again from each of its bytes.
_DIRECTIVE: Final = re.compile(
    rb"(?:^|[,;][ \t]*)(?P<name>" + _TOKEN + rb")(?:=(?P<value>" + _TOKEN + rb"|" + _QUOTED + rb"))?",
    re.DOTALL,
)  # fmt: skip


class Directive(NamedTuple):
    """One directive.

    Attributes:
        name: Its name in lower case.
        value: What follows ``=``, as it was sent, quotes included; None if there is no ``=``.
    """

    name: str
    value: bytes | None


class Parsed(NamedTuple):
    """A field taken apart.

    Attributes:
        directives: All of them in their order, those that are repeated or unknown included.
        well_formed: False if a quote is left over, so that others may read it differently.
    """

    directives: list[Directive]
    well_formed: bool


def parse(lines: Iterable[bytes]) -> Parsed:
    """Take the lines of a field apart.

    Args:
        lines: The values of all fields of the name, in their order.

    Returns:
        The directives. One whose name is not UTF-8 is left out.

    Examples:
        >>> parse([b'public, Max-Age="5"'])
        Parsed(directives=[Directive(name='public', value=None), Directive(name='max-age', value=b'"5"')], well_formed=True)
        >>> parse([b'x="y, no-store']).well_formed
        False
    """
    directives: list[Directive] = []
    well_formed = True
    for line in lines:
        text = line.strip(b" \t")
        quotes = 0
        for match in _DIRECTIVE.finditer(text):
            raw_name, value = match.group("name", "value")
            if value is not None:
                quotes += value.count(b'"')
            try:
                name = raw_name.decode().lower()
            except UnicodeDecodeError:
                continue
            directives.append(Directive(name, value))
        if quotes != text.count(b'"'):
            well_formed = False
    return Parsed(directives, well_formed)


def unquote(value: bytes) -> bytes:
    """Remove the quotes around a value, if it has both.

    Args:
        value: The value as it was sent.

    Returns:
        What is between them. Escaped characters stay escaped: no directive that is known has any.
    """
    if len(value) >= 2 and value[:1] == b'"' == value[-1:]:
        return value[1:-1]
    return value


def delta_seconds(text: bytes) -> int | None:
    """Read a number of seconds.

    Args:
        text: Digits, without quotes.

    Returns:
        The number, ``DELTA_SECONDS_MAX`` if it has more than 32 bits; None if it is no number or
        a negative one.
    """
    # isdigit on bytes knows ASCII only.
    if not text.isdigit():
        return None
    digits = text.lstrip(b"0")
    # The length is checked first: int() takes its time with long numbers, and refuses the longest.
    if len(digits) > _U32_DIGITS:
        return DELTA_SECONDS_MAX
    seconds = int(digits or b"0")
    return DELTA_SECONDS_MAX if seconds > 0xFFFFFFFF else seconds


def list_items(value: bytes) -> list[bytes]:
    """Split the list in a value, such as that of ``private="a, b"``.

    Args:
        value: The value as it was sent.

    Returns:
        The items without white space around them; they may be empty, and of any bytes.
    """
    return [item.strip(b" \t") for item in unquote(value).split(b",")]


def field_names(value: bytes) -> list[bytes]:
    """Read the names of fields in a value.

    Args:
        value: The value as it was sent.

    Returns:
        Those that can be names, in lower case.
    """
    return [item.lower() for item in list_items(value) if is_token(item)]
