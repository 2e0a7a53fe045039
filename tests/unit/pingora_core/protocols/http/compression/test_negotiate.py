"""Accept-Encoding with its weights, and the decision what to do with a body."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from pingora_core.protocols.http.compression import (
    AcceptEncoding,
    Algorithm,
    Compress,
    Decompress,
    accept_encoding_of,
    choose_algorithm,
    decide_action,
    forbids_transform,
    is_compressible,
)
from pingora_http import RequestHeader, ResponseHeader

if TYPE_CHECKING:
    from pingora_core.protocols.http.compression import Action

_GZIP, _BROTLI, _ZSTD = Algorithm.GZIP, Algorithm.BROTLI, Algorithm.ZSTD


def _response(**fields: str) -> ResponseHeader:
    names = {name.replace("_", "-"): value for name, value in fields.items()}
    return ResponseHeader(200, headers=names.items())


@pytest.mark.parametrize(
    ("value", "chosen"),
    [
        # One coding, or several: the client's order counts among equals.
        ("gzip", _GZIP),
        ("GZIP", _GZIP),
        ("x-gzip", _GZIP),
        ("br", _BROTLI),
        ("zstd", _ZSTD),
        ("gzip, deflate, br, zstd", _GZIP),
        ("br, gzip", _BROTLI),
        ("what, br, gzip", _BROTLI),
        ("dcb, br", _BROTLI),
        # Weights
        ("gzip;q=0.5, br;q=0.8", _BROTLI),
        ("gzip;q=0.5,br;q=0.50,zstd;q=0.500", _GZIP),
        ("gzip ; q=0.1 , zstd\t;\tq=1.000", _ZSTD),
        ("gzip;Q=0.2, br;q=.9", _GZIP),
        ("gzip;q=0", None),
        ("gzip;q=0.000, br", _BROTLI),
        ("gzip;q=0, br;q=0, zstd;q=0", None),
        ("gzip;level=1;q=0.5, br;q=0.6", _BROTLI),
        # The wildcard
        ("*", _GZIP),
        ("*;q=0.1", _GZIP),
        ("*;q=0", None),
        ("gzip;q=0, *", _BROTLI),
        ("gzip;q=0.5, *;q=0.6", _BROTLI),
        ("zstd, *;q=0", _ZSTD),
        # Identity
        ("", None),
        ("identity", None),
        ("deflate", None),
        ("identity, gzip", _GZIP),
        ("identity;q=1, gzip;q=0.9", None),
        ("identity;q=0.5, gzip;q=0.5", _GZIP),
        ("identity;q=0", None),
        ("identity;q=0, gzip;q=0.001", _GZIP),
        ("identity;q=0, *", _GZIP),
        ("*, identity;q=0.2", _GZIP),
        ("*;q=0.1, identity;q=0.2", None),
        # What cannot be read is left out
        ("gzip;q=2, br;q=0.1", _BROTLI),
        ("gzip;q=-1, br;q=0.1", _BROTLI),
        ("gzip;q=, br", _BROTLI),
        ("gzip;q, br;q=0.5", _GZIP),
        ("gz ip, br", _BROTLI),
        (",,, gzip,", _GZIP),
        ("gzip;q=0, gzip;q=1", None),
        ("*;q=0, *;q=1", None),
        ("gzip;q=0.123456", _GZIP),
        ("\u00b2, ;q=1, =, gzip;q=\u00b2", None),
    ],
)
def test_the_best_coding_is_chosen(value: str, chosen: Algorithm | None) -> None:
    """The coding with the highest weight wins, if the client wants it more than none."""
    assert choose_algorithm(AcceptEncoding.parse(value), list(Algorithm)) is chosen


def test_a_request_without_the_field_gets_no_coding() -> None:
    """Anything would be acceptable, but such clients decode nothing."""
    assert choose_algorithm(None, list(Algorithm)) is None


def test_only_what_is_available_is_chosen() -> None:
    """A coding that is switched off is passed over for the next best."""
    accept = AcceptEncoding.parse("br, zstd;q=0.9, gzip;q=0.8")

    assert choose_algorithm(accept, [_GZIP, _ZSTD]) is _ZSTD
    assert choose_algorithm(accept, []) is None


@pytest.mark.parametrize(
    ("value", "chosen"),
    [
        ("gzip, deflate, br, zstd", _ZSTD),
        ("gzip, br", _BROTLI),
        ("gzip", _GZIP),
        ("gzip, zstd;q=0.9", _GZIP),
        ("*", _ZSTD),
    ],
)
def test_the_operator_decides_among_equals(value: str, chosen: Algorithm) -> None:
    """A preference breaks ties and never overrules a weight."""
    accept = AcceptEncoding.parse(value)

    assert choose_algorithm(accept, list(Algorithm), (_ZSTD, _BROTLI)) is chosen


@pytest.mark.parametrize(
    ("value", "coding", "weight"),
    [
        ("gzip", "identity", 0.001),
        ("*;q=0", "identity", 0),
        ("*;q=0.7", "identity", 0.001),
        ("identity;q=0.3", "identity", 0.3),
        ("*;q=0.7", "anything", 0.7),
        ("gzip", "br", 0),
    ],
)
def test_weights_of_single_codings(value: str, coding: str, weight: float) -> None:
    """What is not listed has the weight of the wildcard; identity has rules of its own."""
    assert AcceptEncoding.parse(value).weight(coding) == weight


@given(st.text(alphabet='gzipbr*;=q01.,\t "é\\-'))
def test_any_value_can_be_read(value: str) -> None:
    """No value is an error, and weights stay between 0 and 1."""
    accept = AcceptEncoding.parse(value)

    assert all(0 <= weight <= 1 for weight in accept.weights.values())
    choose_algorithm(accept, list(Algorithm))


def test_long_values_are_read_too() -> None:
    """A value too long to be remembered is read all the same."""
    assert AcceptEncoding.parse("x, " * 200 + "br").weight("br") == 1


def test_several_lines_are_one_list() -> None:
    """The field may be split over lines; a missing one is not an empty one."""
    request = RequestHeader("GET", "/")
    assert accept_encoding_of(request) is None

    request.append_header("Accept-Encoding", "gzip;q=0.5")
    request.append_header("accept-encoding", "br")

    accept = accept_encoding_of(request)
    assert accept is not None
    assert accept.weights == {"gzip": 0.5, "br": 1.0}


@pytest.mark.parametrize(
    ("response", "accept", "action"),
    [
        # The cases of upstream's test_decide_action
        (_response(), None, None),
        (_response(content_type="text/html", content_encoding="gzip"), "gzip", None),
        (_response(content_type="text/html", content_encoding="GzIp"), "gzip", None),
        (_response(content_type="text/html", content_length="20"), "gzip", Compress(_GZIP)),
        (_response(content_type="text/html", content_length="19"), "gzip", None),
        (_response(content_type="text/html+zip", content_length="20"), "gzip", None),
        (_response(content_type="image/jpg", content_length="20"), "gzip", None),
        (_response(content_encoding="gzip"), None, Decompress(_GZIP)),
        (_response(content_encoding="gzip"), "br", Decompress(_GZIP)),
        (_response(content_encoding="gzip"), "br, gzip", None),
        (_response(content_encoding="dcb"), "dcb, br", None),
        (_response(content_encoding="br"), "dcz", Decompress(_BROTLI)),
        (_response(content_encoding="zstd"), "dcz", Decompress(_ZSTD)),
        # Weights
        (_response(content_encoding="gzip"), "gzip;q=0", Decompress(_GZIP)),
        (_response(content_encoding="gzip"), "*", None),
        (_response(content_encoding="x-gzip"), "gzip", None),
        (_response(content_encoding="gzip"), "", Decompress(_GZIP)),
        (_response(content_encoding="gzip"), "br, identity;q=0", None),
        (_response(content_encoding="gzip"), "br, *;q=0", None),
        # What cannot be undone
        (_response(content_encoding="gzip, br"), "", None),
        (_response(content_encoding="deflate"), "", None),
        (_response(content_encoding=""), "gzip", None),
    ],
)
def test_decide_action(response: ResponseHeader, accept: str | None, action: Action) -> None:
    """Compress what is plain, undo what the client cannot take, leave the rest."""
    wishes = None if accept is None else AcceptEncoding.parse(accept)

    assert decide_action(response, wishes, list(Algorithm)) == action


def test_two_content_encoding_lines_are_left_alone() -> None:
    """Codings on several lines are several codings."""
    response = _response(content_encoding="gzip")
    response.append_header("Content-Encoding", "br")

    assert decide_action(response, AcceptEncoding.parse(""), list(Algorithm)) is None


@pytest.mark.parametrize(
    ("content_type", "compressible"),
    [
        ("text/html", True),
        ("TEXT/HTML; charset=utf-8", True),
        ("application/json", True),
        ("application/octet-stream", True),
        ("binary/octet-stream", True),
        ("font/ttf", True),
        ("image/svg+xml", True),
        ("image/x-icon", True),
        ("image/nd.microsoft.icon", True),
        ("image/png", False),
        ("video/mp4", False),
        ("application/zip", False),
        ("application/gzip", False),
        ("x-text/html", False),
        ("text/event-stream", False),
        ("Text/Event-Stream; charset=utf-8", False),
        ("application/grpc", False),
        ("application/grpc-web+proto", False),
        ("", False),
        ("\xff", False),
    ],
)
def test_types_that_compress(content_type: str, compressible: bool) -> None:
    """Text compresses; pictures, archives, events and gRPC are left alone."""
    assert is_compressible(_response(content_type=content_type)) is compressible


def test_a_body_without_a_type_is_left_alone() -> None:
    """Nobody knows what it is."""
    assert not is_compressible(ResponseHeader(200))


@pytest.mark.parametrize(
    ("length", "compressible"),
    [
        ("0", False),
        ("19", False),
        ("0019", False),
        ("20", True),
        ("000", False),
        ("1" * 5000, True),
        ("0" * 5000 + "19", False),
        ("many", True),
        ("-5", True),
        ("\xb2", True),
    ],
)
def test_lengths_that_compress(length: str, compressible: bool) -> None:
    """A body known to be tiny is left alone; a length that cannot be read says nothing."""
    response = _response(content_type="text/plain", content_length=length)

    assert is_compressible(response) is compressible


@pytest.mark.parametrize(
    ("values", "forbidden"),
    [
        ([], False),
        (["max-age=60"], False),
        (["no-transform"], True),
        (["public, No-Transform , max-age=60"], True),
        (["public", "no-transform"], True),
        (["x-no-transform-ever"], False),
    ],
)
def test_no_transform(values: list[str], forbidden: bool) -> None:
    """The directive is found on any line and in any case, and not within other words."""
    response = ResponseHeader(200, headers=[("Cache-Control", value) for value in values])

    assert forbids_transform(response) is forbidden
