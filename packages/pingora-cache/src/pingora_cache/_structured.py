"""Reads dictionaries and lists of structured fields (RFC 9651 section 4.2), strictly.

One wrong byte and there is no dictionary, or no list: that is what the RFC wants, and what makes such a field
mean the same to everybody.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, TypeAlias

__all__ = [
    "BareItem",
    "InnerList",
    "Token",
    "Value",
    "parse_dictionary",
    "parse_list",
]

_KEY: Final = re.compile(r"[a-z*][a-z0-9_\-.*]*")
_NUMBER: Final = re.compile(
    r"-?(?:(?P<integer>[0-9]{1,15})(?![0-9.])|[0-9]{1,12}\.[0-9]{1,3}(?![0-9.]))"
)
_STRING: Final = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_TOKEN: Final = re.compile(r"[A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]*")
_BYTES: Final = re.compile(r":[A-Za-z0-9+/=]*:")
_DATE: Final = re.compile(r"@-?[0-9]{1,15}(?![0-9.])")
_DISPLAY: Final = re.compile(r'%"(?:[ !#$&-~]|%[0-9a-f]{2})*"')
_SEPARATOR: Final = re.compile(r"[ \t]*,[ \t]*")
_ESCAPED: Final = re.compile(r"\\(.)")
# Kinds that no cache directive has: their text is kept, not what it stands for.
_OTHERS: Final = (_BYTES, _DATE, _DISPLAY)


class Token(str):
    """A token, as opposed to a string in quotes."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class InnerList:
    """A list in parentheses.

    Attributes:
        items: What is in it, without parameters.
    """

    items: tuple[BareItem, ...]


BareItem: TypeAlias = bool | int | float | str | bytes
"""A value: a boolean, integer, decimal, string or Token; bytes for the raw text of other kinds."""

Value: TypeAlias = BareItem | InnerList


class _Bad(ValueError):  # noqa: N818  # a signal within this module
    """The text is no dictionary."""


class _Reader:
    """Goes through the text."""

    __slots__ = ("at", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self.text, self.at)
        if match is not None:
            self.at = match.end()
        return match

    def take_sign(self, sign: str) -> bool:
        found = self.text.startswith(sign, self.at)
        if found:
            self.at += len(sign)
        return found

    def skip_spaces(self) -> None:
        while self.take_sign(" "):
            pass

    @property
    def at_end(self) -> bool:
        return self.at == len(self.text)

    def key(self) -> str:
        match = self.take(_KEY)
        if match is None:
            raise _Bad
        return match.group()

    def bare_item(self) -> BareItem:
        if (match := self.take(_NUMBER)) is not None:
            return float(match.group()) if match["integer"] is None else int(match.group())
        if (match := self.take(_STRING)) is not None:
            return _ESCAPED.sub(r"\1", match[1])
        if (match := self.take(_TOKEN)) is not None:
            return Token(match.group())
        if self.take_sign("?1"):
            return True
        if self.take_sign("?0"):
            return False
        for pattern in _OTHERS:
            if (match := self.take(pattern)) is not None:
                return match.group().encode()
        raise _Bad

    def parameters(self) -> dict[str, BareItem]:
        found: dict[str, BareItem] = {}
        while self.take_sign(";"):
            self.skip_spaces()
            key = self.key()
            found[key] = self.bare_item() if self.take_sign("=") else True
        return found

    def value(self) -> Value:
        # Cache directives have no parameters that would mean anything: these are read only to see
        # that they are right.
        if not self.take_sign("("):
            item = self.bare_item()
            self.parameters()
            return item
        items: list[BareItem] = []
        while True:
            self.skip_spaces()
            if self.take_sign(")"):
                break
            items.append(self.bare_item())
            self.parameters()
            if not self.text.startswith((" ", ")"), self.at):
                raise _Bad
        self.parameters()
        return InnerList(tuple(items))


def parse_dictionary(text: str) -> dict[str, Value] | None:
    """Read a dictionary.

    Args:
        text: The field: all its lines, joined by commas.

    Returns:
        The members without their parameters, in the order of their first appearance, the last
        value counting; empty for an empty field, None if the field is not a dictionary.

    Examples:
        >>> parse_dictionary('max-age=60, private;x=1, no-cache="a"')
        {'max-age': 60, 'private': True, 'no-cache': 'a'}
        >>> parse_dictionary("max-age=60, &") is None
        True
    """
    reader = _Reader(text.strip(" "))
    members: dict[str, Value] = {}
    if not reader.text:
        return members
    try:
        while True:
            key = reader.key()
            if reader.take_sign("="):
                members[key] = reader.value()
            else:
                reader.parameters()
                members[key] = True
            if reader.at_end:
                return members
            if reader.take(_SEPARATOR) is None or reader.at_end:
                return None
    except _Bad:
        return None


def parse_list(text: str) -> list[tuple[BareItem, dict[str, BareItem]]] | None:
    """Read a list of items, none of which is a list in parentheses.

    Args:
        text: The field: all its lines, joined by commas.

    Returns:
        The items, each with its parameters, the last value of a repeated one counting; empty for
        an empty field, None if the field is not such a list.

    Examples:
        >>> parse_list('a;hit, "b c";ttl=5')
        [('a', {'hit': True}), ('b c', {'ttl': 5})]
    """
    reader = _Reader(text.strip(" "))
    items: list[tuple[BareItem, dict[str, BareItem]]] = []
    try:
        more = bool(reader.text)
        while more:
            item = reader.bare_item()
            items.append((item, reader.parameters()))
            more = reader.take(_SEPARATOR) is not None
        if not reader.at_end:
            return None
    except _Bad:
        return None
    return items
