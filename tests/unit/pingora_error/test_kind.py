"""The kinds of error compare by value and print Pingora's names."""

from __future__ import annotations

import pytest

from pingora_error import INVALID_CHUNK, Custom, CustomCode, ErrorType, HTTPStatus


def test_type_prints_the_name_pingora_gives_it() -> None:
    """A member prints its value, not its Python name."""
    assert str(ErrorType.TLS_WANT_X509_LOOKUP) == "TLSWantX509Lookup"


def test_all_types_of_pingora_are_there() -> None:
    """The set of types is upstream's, without the four variants that carry data."""
    assert [member.value for member in ErrorType] == [
        "ConnectTimedout",
        "ConnectRefused",
        "ConnectNoRoute",
        "TLSWantX509Lookup",
        "TLSHandshakeFailure",
        "TLSHandshakeTimedout",
        "InvalidCert",
        "HandshakeError",
        "ConnectError",
        "BindError",
        "AcceptError",
        "SocketError",
        "ConnectProxyFailure",
        "InvalidHTTPHeader",
        "H1Error",
        "H2Error",
        "H2Downgrade",
        "InvalidH2",
        "ReadError",
        "WriteError",
        "ReadTimedout",
        "WriteTimedout",
        "ConnectionClosed",
        "FileOpenError",
        "FileCreateError",
        "FileReadError",
        "FileWriteError",
        "InternalError",
        "UnknownError",
    ]


def test_kinds_with_data_compare_by_value() -> None:
    """Two kinds made apart are equal when they say the same."""
    assert Custom("InvalidChunk") == INVALID_CHUNK
    assert HTTPStatus(404) == HTTPStatus(404)
    assert HTTPStatus(404) != HTTPStatus(410)
    assert CustomCode("Quota", 429) != CustomCode("Quota", 503)
    assert {HTTPStatus(404): 1}[HTTPStatus(404)] == 1


def test_kinds_with_data_print_name_and_code() -> None:
    """The log shows which status it is."""
    assert [str(HTTPStatus(404)), str(Custom("Quota")), str(CustomCode("Quota", 429))] == [
        "HTTPStatus 404",
        "Quota",
        "Quota 429",
    ]


@pytest.mark.parametrize("code", [-1, 0, 99, 1000])
def test_status_without_three_digits_is_refused(code: int) -> None:
    """A code that no status line can carry is a programming error."""
    with pytest.raises(ValueError, match="three digits"):
        HTTPStatus(code)
    with pytest.raises(ValueError, match="three digits"):
        CustomCode("Quota", code)
