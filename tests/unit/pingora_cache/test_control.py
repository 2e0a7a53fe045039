"""``Cache-Control`` is read the way Pingora reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pingora_cache.control import DELTA_SECONDS_MAX, Cacheability, CacheControl, DirectiveValue
from pingora_error import Error
from pingora_http import RequestHeader, ResponseHeader

if TYPE_CHECKING:
    from collections.abc import Callable


def _control(*lines: str | bytes, floats: bool = False) -> CacheControl:
    response = ResponseHeader(200, headers=[("Cache-Control", line) for line in lines])
    control = CacheControl.from_header(response, allow_float_seconds=floats)
    assert control is not None
    return control


def _raw(control: CacheControl) -> list[tuple[str, bytes | None]]:
    return [(n, None if v is None else v.raw) for n, v in control.directives.items()]


def _context(read: Callable[[], object]) -> str:
    with pytest.raises(Error) as caught:
        read()
    return caught.value.context


def test_simple_cache_control() -> None:
    """Directives with and without a value are found."""
    control = _control("public, max-age=10000")

    assert control.public
    assert control.max_age == 10000


def test_private_cache_control() -> None:
    """A directive that is not there has no value."""
    control = _control("private")

    assert control.private
    assert control.max_age is None


def test_no_field_and_an_empty_one() -> None:
    """Without the field there is nothing; with an empty one there are no directives."""
    assert CacheControl.from_header(ResponseHeader(200)) is None
    assert _control("").directives == {}


def test_another_field() -> None:
    """The same syntax is read from a field of another name."""
    response = ResponseHeader(200, headers=[("X-Cache-Control", "max-age=7")])

    control = CacheControl.from_header(response, "x-cache-CONTROL")

    assert control is not None
    assert control.max_age == 7


def test_directives_across_header_lines() -> None:
    """Several lines are one list."""
    control = _control("public,", "max-age=10000")

    assert control.public
    assert control.max_age == 10000


def test_recognizes_semicolons_as_delimiters() -> None:
    """A semicolon separates as a comma does."""
    control = _control("public; max-age=0")

    assert control.public
    assert control.max_age == 0


def test_unknown_directives() -> None:
    """Unknown directives are kept in their order, values as they were sent."""
    control = _control('public,random1=random2, rand3=""')

    assert _raw(control) == [("public", None), ("random1", b"random2"), ("rand3", b'""')]


def test_case_insensitive_directive_keys() -> None:
    """Names are found whatever their case; values keep theirs."""
    control = _control('Public="something", mAx-AGe="10000", foo=cRaZyCaSe, bAr="inQuotes"')

    assert control.public
    assert control.max_age == 10000
    assert _raw(control) == [
        ("public", b'"something"'),
        ("max-age", b'"10000"'),
        ("foo", b"cRaZyCaSe"),
        ("bar", b'"inQuotes"'),
    ]


def test_the_last_of_two_counts() -> None:
    """Of a directive that is there twice the last one counts, in the place of the first."""
    control = _control("max-age=1, public", "max-age=2")

    assert _raw(control) == [("max-age", b"2"), ("public", None)]


def test_non_ascii() -> None:
    """Other characters make another name, and no number."""
    control = _control('püblic=💖, max-age="💯"'.encode())

    assert not control.public
    assert _context(lambda: control.max_age) == "could not parse value as u32"
    assert _raw(control) == [("püblic", "💖".encode()), ("max-age", '"💯"'.encode())]


def test_non_utf8_key() -> None:
    """A name that is not UTF-8 makes its directive go away, and no other."""
    assert _raw(_control(b'bar\xff="baz", a=b')) == [("a", b"b")]


def test_non_utf8_value() -> None:
    """A value that is not UTF-8 is kept, and is no number."""
    control = _control(b'max-age=ba\xffr, bar="baz\xff", a=b')

    assert _context(lambda: control.max_age) == "could not parse value as utf8"
    assert _raw(control) == [("max-age", b"ba\xffr"), ("bar", b'"baz\xff"'), ("a", b"b")]


def test_age_overflow() -> None:
    """A number that is too large means for ever; a negative one is an error."""
    control = _control("max-age=-99999999999999999999999999, s-maxage=99999999999999999999999999")

    assert control.s_maxage == DELTA_SECONDS_MAX
    assert _context(lambda: control.max_age) == "could not parse value as u32"
    assert control.seconds_or_none("max-age") is None


@pytest.mark.parametrize(
    ("line", "seconds"),
    [("", None), ("max-age=12345", 12345), ("max-age=99999,s-maxage=123", 123)],
)
def test_fresh_sec(line: str, seconds: int | None) -> None:
    """The directive for shared caches comes first."""
    assert _control(line).fresh_duration == seconds


def test_a_bad_s_maxage_has_no_stand_in() -> None:
    """A bad ``s-maxage`` makes no freshness, also where ``max-age`` is good."""
    assert _control("s-maxage=x, max-age=5").fresh_duration is None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", Cacheability.DEFAULT),
        ("private, max-age=12345", Cacheability.NO),
        ("no-store, max-age=12345", Cacheability.NO),
        ("public", Cacheability.YES),
        ("max-age=0", Cacheability.YES),
    ],
)
def test_cacheability(line: str, expected: Cacheability) -> None:
    """What forbids to store comes before what permits it."""
    assert _control(line).cacheability is expected


def test_no_cache() -> None:
    """``no-cache`` permits to store, and makes stale at once."""
    control = _control("no-cache, max-age=12345")

    assert control.cacheability is Cacheability.YES
    assert control.fresh_duration == 0


def test_no_cache_field_names() -> None:
    """With a list of fields, ``private`` and ``no-cache`` are about these alone."""
    control = _control('no-cache="set-cookie", max-age=12345')

    assert not control.private
    assert control.private_field_names is None
    assert control.cacheability is Cacheability.YES
    assert control.fresh_duration == 12345
    assert control.no_cache_field_names == [b"set-cookie"]

    control = _control(b'private="", no-cache="a\xff, set-cookie, Baz\x09 , c,d  ,, "')

    assert control.private_field_names == [b""]
    names = [b"a\xff", b"set-cookie", b"Baz", b"c", b"d", b"", b""]
    assert control.no_cache_field_names == names


def test_strip_private_headers() -> None:
    """The fields that are listed are removed, whatever their case."""
    response = ResponseHeader(
        200, headers=[("X-Private-Header", "dropped"), ("Other", "kept"), ("Third", "dropped")]
    )

    _control('no-cache="x-private-header", private="third", max-age=1').strip_private_headers(
        response
    )

    assert list(response) == [("Other", "kept")]


def test_stale_while_revalidate() -> None:
    """One window says nothing about the other."""
    control = _control("max-age=12345, stale-while-revalidate=5")

    assert control.stale_while_revalidate == 5
    assert control.serve_stale_while_revalidate_duration == 5
    assert control.serve_stale_if_error_duration is None


def test_stale_if_error() -> None:
    """Nor the other way around."""
    control = _control("max-age=12345, stale-if-error=3600")

    assert control.stale_if_error == 3600
    assert control.serve_stale_if_error_duration == 3600
    assert control.serve_stale_while_revalidate_duration is None


def _never_stale(directive: str) -> CacheControl:
    control = _control(f"stale-while-revalidate=60, stale-if-error=30, {directive}")
    assert (control.stale_while_revalidate, control.stale_if_error) == (60, 30)
    assert control.serve_stale_while_revalidate_duration == 0
    assert control.serve_stale_if_error_duration == 0
    return control


def test_must_revalidate() -> None:
    """``must-revalidate`` forbids to serve stale, whatever else is said."""
    assert _never_stale("max-age=12345, must-revalidate").must_revalidate


def test_proxy_revalidate() -> None:
    """So does ``proxy-revalidate``."""
    assert _never_stale("max-age=12345, proxy-revalidate").proxy_revalidate


def test_s_maxage_stale() -> None:
    """So does ``s-maxage``."""
    assert _never_stale("s-maxage=0").s_maxage == 0


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        ("max-age=10", False),
        ("s-maxage=10", True),
        ("public", True),
        ("must-revalidate, max-age=0", True),
        ("", False),
    ],
)
def test_authorized_request(line: str, *, allowed: bool) -> None:
    """Three directives permit to store what was answered to a request with credentials."""
    assert _control(line).allow_caching_authorized_request is allowed


def test_request_only_if_cached() -> None:
    """A request's directives are read likewise; a value does no harm."""
    request = RequestHeader("GET", "/", headers=[("Cache-Control", "only-if-cached=1")])

    control = CacheControl.from_header(request)

    assert control is not None
    assert control.only_if_cached
    assert "only-if-cached" in control


@pytest.mark.parametrize(
    ("raw", "seconds"),
    [
        (b"10", 10),
        (b'"10"', 10),
        (b'"1.5"', 1),
        (b"0", 0),
        (b"99999999999999999999", DELTA_SECONDS_MAX),
        (b"1.5", 1),
        (b"1.9", 1),
        (b"0.5", 0),
        (b".5", 0),
        (b"3600.0", 3600),
        (b"99999999999.5", DELTA_SECONDS_MAX),
        (b"3000000000.5", DELTA_SECONDS_MAX),
    ],
)
def test_parse_as_delta_seconds_floor(raw: bytes, seconds: int) -> None:
    """Fractions are dropped where that is asked for."""
    assert DirectiveValue(raw).seconds(floor=True) == seconds


@pytest.mark.parametrize("raw", [b"-1", b"-1.5", b"NaN", b"inf", b"abc", b"", b".", b"1e3", b"+1"])
def test_what_is_no_number_of_seconds(raw: bytes) -> None:
    """Neither with fractions nor without are these numbers of seconds."""
    value = DirectiveValue(raw)

    assert _context(lambda: value.seconds(floor=True)) == "could not parse value as u32"
    assert _context(value.seconds) == "could not parse value as u32"


def test_floats_that_are_no_text() -> None:
    """Bytes that are no text are told apart from text that is no number."""
    value = DirectiveValue(b"ba\xffr")

    assert _context(lambda: value.seconds(floor=True)) == "could not parse value as utf8"


def test_numbers_up_to_32_bits() -> None:
    """What fits into 32 bits is taken as it is, leading zeros or not."""
    assert _control("max-age=4294967295").max_age == 4294967295
    assert _control("max-age=4294967296").max_age == DELTA_SECONDS_MAX
    assert _control("max-age=0000000000000003600").max_age == 3600


def test_cache_control_allow_float_seconds_non_utf8_value() -> None:
    """The field has the errors of its values, with fractions as well."""
    control = _control(b"max-age=ba\xffr", floats=True)

    assert _context(lambda: control.max_age) == "could not parse value as utf8"


def test_cache_control_allow_float_seconds_default_off() -> None:
    """Without being asked for, a fraction is an error."""
    control = _control("max-age=10.7")

    assert not control.allow_float_seconds
    assert _context(lambda: control.max_age) == "could not parse value as u32"
    assert control.fresh_duration is None


def test_cache_control_with_float_seconds() -> None:
    """When asked for, fractions are dropped in all directives."""
    assert _control("max-age=10.7", floats=True).fresh_duration == 10
    control = _control("s-maxage=3600.99, max-age=1800", floats=True)
    assert (control.s_maxage, control.fresh_duration) == (3600, 3600)
    control = _control("max-age=10, stale-while-revalidate=60.5, stale-if-error=30.9", floats=True)
    assert (control.stale_while_revalidate, control.stale_if_error) == (60, 30)
    assert control.serve_stale_while_revalidate_duration == 60
    assert control.serve_stale_if_error_duration == 30
    assert _control("max-age=12345", floats=True).fresh_duration == 12345
    for bad in ("abc", "-1.5"):
        with pytest.raises(Error):
            _ = _control(f"max-age={bad}", floats=True).max_age


def test_written_and_read_again() -> None:
    """What is written is read as the same directives."""
    control = _control(b'Public, max-age="5"; x=\ty', b"caf\xc3\xa9=1")

    assert control.to_bytes() == 'public, max-age="5", x, café=1'.encode()
    assert str(control) == 'public, max-age="5", x, café=1'
    assert _raw(CacheControl([control.to_bytes()])) == _raw(control)
    assert repr(CacheControl([b"a=1"])) == "<CacheControl a=1>"
