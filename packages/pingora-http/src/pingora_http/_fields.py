"""`HeaderMap`: header fields in wire order, with their case, looked up without case.

Theory of operation: the fields are one list of (name, value) pairs of bytes. The index, from
lower-case name to the position of the first field of that name, is built on the first look-up
and thrown away by changes that move fields. When it has fewer entries than there are fields,
some name occurs twice; only then does anything look further.

Rules of this file: names and values are checked when they are put in by a program; fields that a
parser has already checked come in through ``from_wire_items`` unchecked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from pingora_error import Error, ErrorType
from pingora_http.grammar import is_field_value, is_token

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, KeysView

__all__ = ["HeaderMap", "HeaderName", "HeaderValue"]

HeaderName: TypeAlias = str | bytes
HeaderValue: TypeAlias = str | bytes

# Programs use a few dozen names; the bound only keeps names made of input from piling up.
_MAX_CACHED_NAMES = 1024
_names: dict[str, tuple[bytes, bytes]] = {}


def _checked_name(name: HeaderName) -> tuple[bytes, bytes]:
    # Returns the name as bytes and its lower-case key.
    if isinstance(name, str):
        known = _names.get(name)
        if known is not None:
            return known
        raw = name.encode("latin-1", "replace")
    else:
        raw = name
    if not is_token(raw):
        raise Error(ErrorType.INVALID_HTTP_HEADER, f"not a field name: {raw[:80]!r}")
    pair = raw, raw.lower()
    if isinstance(name, str) and len(_names) < _MAX_CACHED_NAMES:
        _names[name] = pair
    return pair


def _checked_value(name: bytes, value: HeaderValue) -> bytes:
    if isinstance(value, str):
        try:
            value = value.encode("latin-1")
        except UnicodeEncodeError as error:
            raise Error(
                ErrorType.INVALID_HTTP_HEADER,
                f"value of {name.decode('latin-1')} is not latin-1; encode it yourself",
                cause=error,
            ) from error
    value = value.strip(b" \t")
    if not is_field_value(value):
        raise Error(ErrorType.INVALID_HTTP_HEADER, f"control character in {name.decode('latin-1')}")
    return value


def _key(name: HeaderName) -> bytes:
    if isinstance(name, str):
        known = _names.get(name)
        return known[1] if known is not None else name.lower().encode("latin-1", "replace")
    return name.lower()


class HeaderMap:
    r"""Header or trailer fields: ordered, case-keeping, with duplicates.

    Args:
        items: Names and values.

    Raises:
        Error: ``INVALID_HTTP_HEADER`` for a name or value that must not go on the wire.

    Examples:
        >>> fields = HeaderMap([("Content-Type", "text/html")])
        >>> fields.append_header("Set-Cookie", "a=1")
        >>> fields.get("content-type")
        'text/html'
        >>> fields.to_h1_wire()
        b'Content-Type: text/html\r\nSet-Cookie: a=1\r\n'
    """

    __slots__ = ("_index", "_items")

    def __init__(self, items: Iterable[tuple[HeaderName, HeaderValue]] = ()) -> None:
        self._items: list[tuple[bytes, bytes]] = []
        self._index: dict[bytes, int] | None = None
        for name, value in items:
            self.append_header(name, value)

    @classmethod
    def from_wire_items(cls, items: list[tuple[bytes, bytes]]) -> HeaderMap:
        """Take fields over that a parser has checked.

        Args:
            items: The fields; owned by the map afterwards.

        Returns:
            The map.
        """
        self = HeaderMap.__new__(HeaderMap)
        self._items = items
        self._index = None
        return self

    def copy(self) -> HeaderMap:
        """Copy the map.

        Returns:
            A map that changes on its own.
        """
        return HeaderMap.from_wire_items(self._items[:])

    # ---------------------------------------------------------------- reading

    def _build_index(self) -> dict[bytes, int]:
        items = self._items
        index = {name.lower(): position for position, (name, _) in enumerate(items)}
        if len(index) != len(items):
            # The comprehension keeps the last position of a name; look-ups want the first.
            index = {}
            for position, (name, _) in enumerate(items):
                index.setdefault(name.lower(), position)
        self._index = index
        return index

    def keys_lower(self) -> KeysView[bytes]:
        """Return the names that occur, in lower case, each once.

        Returns:
            A set-like view; do not keep it across changes.
        """
        index = self._index
        return (self._build_index() if index is None else index).keys()

    @property
    def has_duplicates(self) -> bool:
        """Whether any name occurs more than once."""
        return len(self.keys_lower()) != len(self._items)

    @property
    def raw_items(self) -> list[tuple[bytes, bytes]]:
        """The fields as they go on the wire; not to be changed."""
        return self._items

    def get_raw(self, key: bytes) -> bytes | None:
        """Return the first value of a name.

        Args:
            key: The name, in lower case.

        Returns:
            The value's bytes; None when there is no such field.
        """
        index = self._index
        if index is None:
            index = self._build_index()
        position = index.get(key)
        return None if position is None else self._items[position][1]

    def get_all_raw(self, key: bytes) -> list[bytes]:
        """Return all values of a name.

        Args:
            key: The name, in lower case.

        Returns:
            The values' bytes in wire order.
        """
        if key not in self.keys_lower():
            return []
        return [value for name, value in self._items if name.lower() == key]

    def get(self, name: HeaderName, default: str | None = None) -> str | None:
        """Return the first value of a name.

        Args:
            name: The name, in any case.
            default: What to return when there is no such field.

        Returns:
            The value, decoded as latin-1.
        """
        value = self.get_raw(_key(name))
        return default if value is None else value.decode("latin-1")

    def get_all(self, name: HeaderName) -> list[str]:
        """Return all values of a name.

        Args:
            name: The name, in any case.

        Returns:
            The values in wire order, decoded as latin-1.
        """
        return [value.decode("latin-1") for value in self.get_all_raw(_key(name))]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str | bytes) and _key(name) in self.keys_lower()

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for name, value in self._items:
            yield name.decode("latin-1"), value.decode("latin-1")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, HeaderMap):
            return NotImplemented
        return self._items == other._items

    __hash__ = None  # type: ignore[assignment]  # mutable, as list says it too

    def __repr__(self) -> str:
        names = ", ".join(name.decode("latin-1") for name, _ in self._items)
        return f"<{type(self).__name__} {names}>"

    # --------------------------------------------------------------- changing

    def append_header(self, name: HeaderName, value: HeaderValue) -> None:
        """Add a field behind all others.

        Args:
            name: The name, in the case in which it is sent.
            value: The value; white space around it is removed.

        Raises:
            Error: ``INVALID_HTTP_HEADER`` for a name or value that must not go on the wire.
        """
        raw, key = _checked_name(name)
        index = self._index
        if index is not None:
            index.setdefault(key, len(self._items))
        self._items.append((raw, _checked_value(raw, value)))

    def insert_header(self, name: HeaderName, value: HeaderValue) -> None:
        """Set a field: all fields of that name give way to one, where the first of them was.

        Args:
            name: The name, in the case in which it is sent.
            value: The value; white space around it is removed.

        Raises:
            Error: ``INVALID_HTTP_HEADER`` for a name or value that must not go on the wire.
        """
        raw, key = _checked_name(name)
        checked = _checked_value(raw, value)
        index = self._index
        if index is None:
            index = self._build_index()
        items = self._items
        position = index.get(key)
        if position is None:
            index[key] = len(items)
            items.append((raw, checked))
            return
        items[position] = (raw, checked)
        if len(index) != len(items):
            self._items = [
                item for at, item in enumerate(items) if at == position or item[0].lower() != key
            ]
            self._index = None

    def remove_header(self, name: HeaderName) -> str | None:
        """Remove all fields of a name.

        Args:
            name: The name, in any case.

        Returns:
            The first value that was removed, None when there was none.
        """
        key = _key(name)
        value = self.get_raw(key)
        if value is None:
            return None
        self._items = [item for item in self._items if item[0].lower() != key]
        self._index = None
        return value.decode("latin-1")

    def remove_headers(self, keys: Collection[bytes]) -> None:
        """Remove all fields of several names.

        Args:
            keys: The names, in lower case.
        """
        if self.keys_lower().isdisjoint(keys):
            return
        self._items = [item for item in self._items if item[0].lower() not in keys]
        self._index = None

    # ----------------------------------------------------------------- output

    def to_h1_wire(self) -> bytes:
        """Write the fields as HTTP/1 does.

        Returns:
            ``Name: value`` lines, each with its CRLF; no empty line behind.
        """
        return b"".join([b"%b: %b\r\n" % item for item in self._items])
