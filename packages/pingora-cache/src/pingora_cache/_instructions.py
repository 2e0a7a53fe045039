"""What a response says about storing it: the directives that count, boiled down.

Where a field contradicts itself, the reading that stores less, or for less time, is taken
(RFC 9111 section 4.2.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pingora_cache._directives import delta_seconds, field_names, parse, unquote
from pingora_cache.targeted import parse_surrogate_control, select_targeted
from pingora_http import names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pingora_cache._directives import Directive
    from pingora_http import ResponseHeader

__all__ = ["STRUCTURAL_FIELDS", "Instructions", "read_instructions"]

_SURROGATE_CONTROL: Final = b"surrogate-control"

STRUCTURAL_FIELDS: Final = frozenset(
    {
        names.AGE,
        names.CACHE_CONTROL,
        names.CONTENT_ENCODING,
        names.CONTENT_LENGTH,
        names.CONTENT_RANGE,
        names.CONTENT_TYPE,
        names.DATE,
        names.EXPIRES,
        names.LOCATION,
        names.VARY,
        b"cdn-cache-control",
        _SURROGATE_CONTROL,
    }
)
"""Fields without which the rest is another response: who removes one must not store the rest.

Without ``Vary``, say, one variant would be served to everybody.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instructions:
    """What the response says.

    Attributes:
        given: Whether there is a field at all.
        targeted: Whether it is one that is addressed to caches like this one: ``Expires`` and
            ``Pragma`` do not count then.
        well_formed: False if others may read the field differently.
        no_store: ``no-store`` is there.
        private: ``private`` is there for the whole response.
        no_cache: ``no-cache`` is there for the whole response.
        public: ``public`` is there.
        s_maxage: ``s-maxage`` is there, with whatever value.
        must_understand: ``must-understand`` is there.
        must_revalidate: It must never be served stale.
        authorized: The answer to a request with ``Authorization`` may be stored.
        lifetime: Seconds it is fresh for: 0 if what is said is no number, or not one number; None
            if nothing is said.
        stale_while_revalidate: Seconds, likewise.
        stale_if_error: Seconds, likewise.
        hidden_fields: Names, in lower case, of the fields that must not be stored.
    """

    given: bool
    targeted: bool
    well_formed: bool
    no_store: bool
    private: bool
    no_cache: bool
    public: bool
    s_maxage: bool
    must_understand: bool
    must_revalidate: bool
    authorized: bool
    lifetime: int | None
    stale_while_revalidate: int | None
    stale_if_error: int | None
    hidden_fields: frozenset[bytes]


def read_instructions(
    response: ResponseHeader, targeted_fields: Sequence[bytes], *, surrogate_control: bool
) -> Instructions:
    """Find the field that counts, and read it.

    Args:
        response: The head of the response.
        targeted_fields: The fields that come before ``Cache-Control``, in lower case.
        surrogate_control: Whether ``Surrogate-Control`` does, too, after those.

    Returns:
        What it says.
    """
    directives = select_targeted(response, targeted_fields)
    if directives is None and surrogate_control:
        lines = response.get_all_raw(_SURROGATE_CONTROL)
        directives = parse_surrogate_control(lines) if lines else None
    if directives is not None:
        return _interpret(directives, targeted=True, given=True, well_formed=True)
    lines = response.get_all_raw(names.CACHE_CONTROL)
    parsed = parse(lines)
    return _interpret(
        parsed.directives, targeted=False, given=bool(lines), well_formed=parsed.well_formed
    )


def _interpret(
    directives: list[Directive], *, targeted: bool, given: bool, well_formed: bool
) -> Instructions:
    values: dict[str, list[bytes | None]] = {}
    for name, value in directives:
        values.setdefault(name, []).append(value)
    private, private_fields = _qualified(values.get("private"))
    no_cache, no_cache_fields = _qualified(values.get("no-cache"))
    s_maxage = "s-maxage" in values
    must_revalidate = "must-revalidate" in values
    public = "public" in values
    return Instructions(
        given=given,
        targeted=targeted,
        well_formed=well_formed,
        no_store="no-store" in values,
        private=private,
        no_cache=no_cache,
        public=public,
        s_maxage=s_maxage,
        must_understand="must-understand" in values,
        # RFC 9111 section 5.2.2.10: s-maxage implies proxy-revalidate.
        must_revalidate=must_revalidate or s_maxage or no_cache or "proxy-revalidate" in values,
        authorized=must_revalidate or s_maxage or public,
        lifetime=_seconds(values.get("s-maxage" if s_maxage else "max-age")),
        stale_while_revalidate=_seconds(values.get("stale-while-revalidate")),
        stale_if_error=_seconds(values.get("stale-if-error")),
        hidden_fields=private_fields | no_cache_fields,
    )


def _seconds(values: list[bytes | None] | None) -> int | None:
    if values is None:
        return None
    numbers = {None if value is None else delta_seconds(unquote(value)) for value in values}
    return numbers.pop() or 0 if len(numbers) == 1 else 0


def _qualified(values: list[bytes | None] | None) -> tuple[bool, frozenset[bytes]]:
    # A list of fields instead of the whole response; the whole, if that cannot be done.
    if values is None:
        return False, frozenset()
    fields: set[bytes] = set()
    for value in values:
        listed = [] if value is None else field_names(value)
        if not listed:
            return True, frozenset()
        fields.update(listed)
    if fields & STRUCTURAL_FIELDS:
        return True, frozenset()
    return False, frozenset(fields)
