"""What ``Cache-Control`` says, read as Pingora reads it.

``CacheControl`` is the building block for policies of one's own, together with
``pingora_cache.filters``. ``CachePolicy`` is stricter where a field contradicts itself.

Source: pingora-cache/src/cache_control.rs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from pingora_cache._directives import (
    DELTA_SECONDS_MAX,
    delta_seconds,
    field_names,
    list_items,
    parse,
    unquote,
)
from pingora_error import Error, ErrorType

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

    from pingora_http import HeaderMap, ResponseHeader

__all__ = ["DELTA_SECONDS_MAX", "CacheControl", "Cacheability", "DirectiveValue"]

_FRACTION: Final = re.compile(rb"[0-9]+\.[0-9]*|\.[0-9]+")


class Cacheability(Enum):
    """What ``Cache-Control`` says about storing.

    Attributes:
        YES: It may be stored.
        NO: It must not be stored by a shared cache.
        DEFAULT: Nothing is said.
    """

    YES = "yes"
    NO = "no"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class DirectiveValue:
    """The value of one directive.

    Attributes:
        raw: As it was sent, quotes included.
    """

    raw: bytes

    @property
    def unquoted(self) -> bytes:
        """The value without quotes around it."""
        return unquote(self.raw)

    @property
    def text(self) -> str:
        """The value without quotes, as text.

        Raises:
            Error: ``INTERNAL_ERROR`` if it is not UTF-8.
        """
        try:
            return self.unquoted.decode()
        except UnicodeDecodeError as error:
            context = "could not parse value as utf8"
            raise Error(ErrorType.INTERNAL_ERROR, context, cause=error) from error

    def seconds(self, *, floor: bool = False) -> int:
        """Read the value as a number of seconds.

        Args:
            floor: Whether a fraction is dropped; without it a number with one is an error, as
                RFC 9111 has it.

        Returns:
            Seconds; ``DELTA_SECONDS_MAX`` for a number that does not fit into 32 bits.

        Raises:
            Error: ``INTERNAL_ERROR`` if it is negative, no number, or not even text.
        """
        raw = self.text.encode()
        seconds = delta_seconds(raw)
        if seconds is None and floor and _FRACTION.fullmatch(raw):
            seconds = min(delta_seconds(raw.partition(b".")[0] or b"0") or 0, DELTA_SECONDS_MAX)
        if seconds is None:
            raise Error(ErrorType.INTERNAL_ERROR, "could not parse value as u32")
        return seconds


class CacheControl:
    """The directives of a ``Cache-Control`` field, or of one like it.

    Of a directive that is there more than once, the last one counts.

    Args:
        lines: The values of all fields of the name, in their order.
        allow_float_seconds: Whether numbers of seconds may have a fraction, which is dropped.

    Attributes:
        directives: By name in lower case, in the order of their first appearance; None for a
            directive without a value.
        allow_float_seconds: As given.
        well_formed: False if a quote is left over, so that others may read the field differently:
            do not store what it came with.

    Examples:
        >>> control = CacheControl([b'public, max-age="600"'])
        >>> control.public, control.max_age, control.fresh_duration
        (True, 600, 600)
        >>> str(control)
        'public, max-age="600"'
    """

    __slots__ = ("allow_float_seconds", "directives", "well_formed")

    directives: dict[str, DirectiveValue | None]
    allow_float_seconds: bool
    well_formed: bool

    def __init__(self, lines: Iterable[bytes] = (), *, allow_float_seconds: bool = False) -> None:
        parsed = parse(lines)
        self.directives = {
            name: None if value is None else DirectiveValue(value)
            for name, value in parsed.directives
        }
        self.allow_float_seconds = allow_float_seconds
        self.well_formed = parsed.well_formed

    @classmethod
    def from_header(
        cls,
        header: HeaderMap,
        name: str = "cache-control",
        *,
        allow_float_seconds: bool = False,
    ) -> Self | None:
        """Read a field of a head.

        Args:
            header: The head of a request or a response.
            name: The field, in any case.
            allow_float_seconds: As in the constructor.

        Returns:
            The directives; None if there is no such field. An empty field has none.
        """
        lines = header.get_all_raw(name.lower().encode("latin-1"))
        return cls(lines, allow_float_seconds=allow_float_seconds) if lines else None

    def __contains__(self, name: str) -> bool:
        return name in self.directives

    def to_bytes(self) -> bytes:
        """Write the directives as one line.

        Returns:
            The value of a field, which is read as the same directives.
        """
        return b", ".join(
            name.encode() if value is None else name.encode() + b"=" + value.raw
            for name, value in self.directives.items()
        )

    def __str__(self) -> str:
        return self.to_bytes().decode("utf-8", "replace")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}>"

    # ------------------------------------------------------------ what is there

    @property
    def public(self) -> bool:
        """Whether ``public`` is there, with or without a value."""
        return "public" in self.directives

    @property
    def private(self) -> bool:
        """Whether ``private`` is there without a value, which names fields and not the whole."""
        return self.directives.get("private", _ABSENT) is None

    @property
    def no_cache(self) -> bool:
        """Whether ``no-cache`` is there without a value, as with ``private``."""
        return self.directives.get("no-cache", _ABSENT) is None

    @property
    def no_store(self) -> bool:
        """Whether ``no-store`` is there."""
        return "no-store" in self.directives

    @property
    def must_revalidate(self) -> bool:
        """Whether ``must-revalidate`` is there."""
        return "must-revalidate" in self.directives

    @property
    def proxy_revalidate(self) -> bool:
        """Whether ``proxy-revalidate`` is there."""
        return "proxy-revalidate" in self.directives

    @property
    def only_if_cached(self) -> bool:
        """Whether ``only-if-cached`` is there, in a request."""
        return "only-if-cached" in self.directives

    @property
    def private_field_names(self) -> list[bytes] | None:
        """What ``private="..."`` lists, trimmed but of any bytes; None if it lists nothing."""
        return self._items("private")

    @property
    def no_cache_field_names(self) -> list[bytes] | None:
        """What ``no-cache="..."`` lists, as with ``private_field_names``."""
        return self._items("no-cache")

    def _items(self, name: str) -> list[bytes] | None:
        value = self.directives.get(name)
        return None if value is None else list_items(value.raw)

    # ----------------------------------------------------------------- seconds

    def seconds(self, name: str) -> int | None:
        """Read a directive that is a number of seconds.

        Args:
            name: The directive, in lower case.

        Returns:
            Seconds; None if it is not there or has no value.

        Raises:
            Error: ``INTERNAL_ERROR`` if the value is no number of seconds.
        """
        value = self.directives.get(name)
        return None if value is None else value.seconds(floor=self.allow_float_seconds)

    def seconds_or_none(self, name: str) -> int | None:
        """Do as ``seconds``, taking a bad value for none.

        Args:
            name: The directive, in lower case.

        Returns:
            Seconds; None if it is not there, has no value or a bad one.
        """
        try:
            return self.seconds(name)
        except Error:
            return None

    @property
    def max_age(self) -> int | None:
        """Seconds of ``max-age``, with the errors of ``seconds``."""
        return self.seconds("max-age")

    @property
    def s_maxage(self) -> int | None:
        """Seconds of ``s-maxage``, with the errors of ``seconds``."""
        return self.seconds("s-maxage")

    @property
    def stale_while_revalidate(self) -> int | None:
        """Seconds of ``stale-while-revalidate``, with the errors of ``seconds``."""
        return self.seconds("stale-while-revalidate")

    @property
    def stale_if_error(self) -> int | None:
        """Seconds of ``stale-if-error``, with the errors of ``seconds``."""
        return self.seconds("stale-if-error")

    # ----------------------------------------------------------- what it means

    @property
    def cacheability(self) -> Cacheability:
        """Whether a shared cache may store the response, as far as this field goes."""
        if self.no_store or self.private:
            return Cacheability.NO
        if "s-maxage" in self or "max-age" in self or self.public:
            return Cacheability.YES
        return Cacheability.DEFAULT

    @property
    def allow_caching_authorized_request(self) -> bool:
        """Whether the answer to a request with ``Authorization`` may be stored (RFC 9111 3.5)."""
        return self.must_revalidate or self.public or "s-maxage" in self

    @property
    def fresh_duration(self) -> int | None:
        """Seconds that the response is fresh for; 0 with ``no-cache``, None if it does not say.

        A bad ``s-maxage`` gives None: ``max-age`` does not stand in for it.
        """
        if self.no_cache:
            return 0
        try:
            shared = self.s_maxage
        except Error:
            return None
        return self.seconds_or_none("max-age") if shared is None else shared

    @property
    def serve_stale_while_revalidate_duration(self) -> int | None:
        """Seconds that it may be served stale while it is fetched anew; None if not said.

        0 if a directive forbids to serve it stale (RFC 9111 section 4.2.4).
        """
        return 0 if self._never_stale else self.seconds_or_none("stale-while-revalidate")

    @property
    def serve_stale_if_error_duration(self) -> int | None:
        """Seconds that it may be served stale when the upstream fails; None if not said.

        0 if a directive forbids to serve it stale (RFC 9111 section 4.2.4).
        """
        return 0 if self._never_stale else self.seconds_or_none("stale-if-error")

    @property
    def _never_stale(self) -> bool:
        return self.must_revalidate or self.proxy_revalidate or "s-maxage" in self

    def strip_private_headers(self, response: ResponseHeader) -> None:
        """Remove the fields that ``private="..."`` and ``no-cache="..."`` list.

        Args:
            response: The head; changed in place.
        """
        for name in ("private", "no-cache"):
            value = self.directives.get(name)
            if value is not None:
                response.remove_headers(field_names(value.raw))


# Stands for a directive that is not there, where None means one without a value.
_ABSENT: Final = DirectiveValue(b"")
