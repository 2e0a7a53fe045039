"""Whether a response may be stored, and what of it: the decision behind ``CachePolicy``.

Theory of operation: ``decide`` goes through the rules of RFC 9111 section 3 in order, and stops at
the first that forbids. What is left gets its times. A response that is stale at once is worth
storing only if something can come of it: it can be validated, or served stale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from pingora_cache._freshness import expires_lifetime, heuristic_lifetime, initial_age
from pingora_cache._instructions import read_instructions
from pingora_cache._storing import add_date, connection_options, drops_structure
from pingora_cache.meta import CacheMeta
from pingora_cache.tags import parse_tags
from pingora_cache.vary import vary_names
from pingora_http import names
from pingora_http.status import REASON_PHRASES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pingora_cache._instructions import Instructions
    from pingora_cache.tags import TagField
    from pingora_http import RequestHeader, ResponseHeader

__all__ = [
    "HEURISTIC_STATUSES",
    "NEVER_STORED_STATUSES",
    "Arrival",
    "SetCookie",
    "Settings",
    "Terms",
    "decide",
    "make_meta",
]

SetCookie = Literal["deny", "strip", "store"]

NEVER_STORED_STATUSES: Final = frozenset(
    {206, 304, 407, 412, 416, 417, 421, 425, 428, 429, 431, 511}
)
"""Answers to one request, or to one connection, rather than for a target.

They depend on fields that are not in the key: ranges and conditions (206, 304, 412, 416, 417), the
size of the head (431), whom the connection is with (407, 421, 425). Stored, one client could have
them served to all others. 428, 429, 431 and 511 must not be stored anyway (RFC 6585).
"""

HEURISTIC_STATUSES: Final = frozenset({200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501})
"""Statuses of which a response may be stored without being told (RFC 9110 section 15.1)."""

_UNDERSTOOD: Final = frozenset(REASON_PHRASES) - NEVER_STORED_STATUSES


class Settings(NamedTuple):
    """What a policy was told, as far as storing goes; see ``CachePolicy``."""

    targeted_fields: Sequence[bytes]
    surrogate_control: bool
    default_ttl: Mapping[int, float]
    heuristic_fraction: float
    heuristic_max: float
    heuristic_statuses: frozenset[int]
    stale_while_revalidate: int
    stale_if_error: int
    max_ttl: float | None
    set_cookie: SetCookie
    bad_age: Literal["stale", "ignore"]
    tag_fields: tuple[TagField, ...]

    def check(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ValueError: As ``CachePolicy`` says.
        """
        if not 0 <= self.heuristic_fraction <= 1:
            msg = f"heuristic_fraction is a share, 0 to 1, not {self.heuristic_fraction}"
            raise ValueError(msg)
        seconds = (
            self.heuristic_max,
            self.stale_while_revalidate,
            self.stale_if_error,
            self.max_ttl or 0,
            *self.default_ttl.values(),
        )
        if not all(number >= 0 for number in seconds):
            msg = "times are not negative"
            raise ValueError(msg)
        refused = sorted(NEVER_STORED_STATUSES.intersection(self.default_ttl))
        if refused:
            msg = f"responses with status {refused[0]} are never stored"
            raise ValueError(msg)
        if self.set_cookie not in {"deny", "strip", "store"}:
            msg = f"set_cookie is deny, strip or store, not {self.set_cookie!r}"
            raise ValueError(msg)
        if self.bad_age not in {"stale", "ignore"}:
            msg = f"bad_age is stale or ignore, not {self.bad_age!r}"
            raise ValueError(msg)

    def read(self, response: ResponseHeader) -> Instructions:
        """Read what a response says, in the field that counts.

        Args:
            response: Its head.

        Returns:
            What it says.
        """
        return read_instructions(
            response, self.targeted_fields, surrogate_control=self.surrogate_control
        )


class Arrival(NamedTuple):
    """How a response came.

    Attributes:
        head: Its head as it came: what ``Age`` is read from.
        request_time: When the request was sent; seconds since the epoch.
        response_time: When the response arrived.
    """

    head: ResponseHeader
    request_time: float
    response_time: float


class Terms(NamedTuple):
    """On which terms a response may be stored.

    Attributes:
        epoch: When it was made; seconds since the epoch.
        fresh_until: Until when it is fresh.
        stale_while_revalidate: Seconds it may be served stale while it is fetched anew.
        stale_if_error: Seconds it may be served stale when that fails.
        revalidate: Whether it must be validated before each use.
        hidden_fields: Names of fields to leave out, in lower case.
    """

    epoch: float
    fresh_until: float
    stale_while_revalidate: int
    stale_if_error: int
    revalidate: bool = False
    hidden_fields: frozenset[bytes] = frozenset()


def decide(
    settings: Settings, request: RequestHeader, response: ResponseHeader, arrival: Arrival
) -> Terms | str:
    """Decide about a response.

    Args:
        settings: What the policy was told.
        request: The head of the request.
        response: The head that would be stored: the one that came, or a stored one with what the
            one that came has changed.
        arrival: The head that came, and when.

    Returns:
        The terms; or the rule that forbids it, in a word or two.
    """
    said = settings.read(response)
    forbidden = _forbidden(settings, said, request, response)
    if forbidden:
        return forbidden
    lifetime = _lifetime(settings, said, response, arrival.response_time)
    if lifetime is None:
        return f"status {response.status} without freshness"
    revalidate = _validated_always(said, response)
    hidden = said.hidden_fields
    if settings.set_cookie != "store":
        hidden |= {names.SET_COOKIE}
    terms = _terms(settings, said, 0.0 if revalidate else lifetime, arrival)
    terms = terms._replace(revalidate=revalidate, hidden_fields=hidden)
    useful = (
        terms.fresh_until > arrival.response_time
        or _has_validator(response)
        or terms.stale_while_revalidate > 0
        or terms.stale_if_error > 0
    )
    return terms if useful else "stale without a validator"


def make_meta(
    settings: Settings, head: ResponseHeader, terms: Terms, *, created: float, updated: float
) -> CacheMeta:
    """Put together what is stored.

    Args:
        settings: What the policy was told.
        head: The head, cleaned; it is taken, and gets a ``Date`` if it has none.
        terms: On which terms.
        created: When the body was stored first; seconds since the epoch.
        updated: When the head arrived.

    Returns:
        The meta.
    """
    add_date(head, updated)
    return CacheMeta(
        head,
        created=created,
        updated=updated,
        fresh_until=terms.fresh_until,
        stale_while_revalidate=terms.stale_while_revalidate,
        stale_if_error=terms.stale_if_error,
        epoch_override=terms.epoch,
        tags=parse_tags(head, fields=settings.tag_fields),
        revalidate=terms.revalidate,
    )


def _forbidden(
    settings: Settings, said: Instructions, request: RequestHeader, response: ResponseHeader
) -> str:
    status, fields = response.status, response.keys_lower()
    for_all = said.public or said.s_maxage or said.targeted
    rules = (
        (f"status {status}", status < 200 or status in NEVER_STORED_STATUSES),
        ("malformed Cache-Control", not said.well_formed),
        ("must-understand", said.must_understand and status not in _UNDERSTOOD),
        # RFC 9111 section 5.2.2.3: no-store is for those who do not understand the status.
        ("no-store", said.no_store and not said.must_understand),
        ("private", said.private),
        ("Authorization", names.AUTHORIZATION in request.keys_lower() and not said.authorized),
        ("Vary", vary_names(response) is None),
        ("Connection", drops_structure(connection_options(response))),
        (
            "Set-Cookie",
            settings.set_cookie == "deny"
            and not for_all
            and names.SET_COOKIE in fields
            and names.SET_COOKIE not in said.hidden_fields,
        ),
    )
    return next((rule for rule, broken in rules if broken), "")


def _lifetime(
    settings: Settings, said: Instructions, response: ResponseHeader, response_time: float
) -> float | None:
    # None if nothing permits to store it.
    status = response.status
    explicit: float | None = said.lifetime
    if explicit is None and not said.targeted:
        explicit = expires_lifetime(response, response_time)
    if explicit is None:
        explicit = settings.default_ttl.get(status)
    if explicit is None:
        if status not in settings.heuristic_statuses and not said.public:
            return None
        explicit = heuristic_lifetime(
            response,
            response_time=response_time,
            fraction=settings.heuristic_fraction,
            longest=settings.heuristic_max,
        )
    return explicit or 0.0


def _validated_always(said: Instructions, response: ResponseHeader) -> bool:
    if said.given:
        return said.no_cache
    # Means nothing in a response (RFC 9111 section 5.4), but is meant by those who send it alone.
    return any(b"no-cache" in line.lower() for line in response.get_all_raw(names.PRAGMA))


def _terms(settings: Settings, said: Instructions, lifetime: float, arrival: Arrival) -> Terms:
    now = arrival.response_time
    age = initial_age(
        arrival.head,
        request_time=arrival.request_time,
        response_time=now,
        trust_bad_age=settings.bad_age == "ignore",
    )
    epoch = now if age is None else now - age
    fresh_until = now if age is None else epoch + lifetime
    if settings.max_ttl is not None:
        fresh_until = min(fresh_until, now + settings.max_ttl)
    if fresh_until <= now:
        # The last instant counts as fresh: what never was is put well before it, as Pingora does.
        fresh_until = min(fresh_until, now - 1.0)
    # Stores count from 1970 on: an Age of decades ends there.
    epoch, fresh_until = max(epoch, 0.0), max(fresh_until, 0.0)
    revalidating, error = said.stale_while_revalidate, said.stale_if_error
    return Terms(
        epoch=epoch,
        fresh_until=fresh_until,
        stale_while_revalidate=_window(
            said, lifetime, revalidating, settings.stale_while_revalidate
        ),
        stale_if_error=_window(said, lifetime, error, settings.stale_if_error),
    )


def _window(said: Instructions, lifetime: float, seconds: int | None, default: int) -> int:
    if said.must_revalidate:
        return 0
    if seconds is not None:
        return seconds
    # A page that nothing is said about may be one client's: without asking the origin it is
    # never served. Only who could serve it fresh may serve it stale.
    return default if lifetime > 0 else 0


def _has_validator(response: ResponseHeader) -> bool:
    return names.ETAG in response.keys_lower() or names.LAST_MODIFIED in response.keys_lower()
