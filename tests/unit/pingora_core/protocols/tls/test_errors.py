from __future__ import annotations

import pytest
from OpenSSL import SSL

from pingora_core.protocols.tls import handshake_error, reason_of
from pingora_error import ErrorType


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (SSL.Error([("SSL routines", "", "no shared cipher")]), "no shared cipher"),
        (SSL.Error([("a", "", "first"), ("b", "", "second")]), "first, second"),
        (SSL.Error([("a", "", ""), 7]), "Error"),
        (SSL.Error(), "Error"),
        (SSL.SysCallError(-1, "Unexpected EOF"), "Unexpected EOF"),
        (SSL.ZeroReturnError(), "ZeroReturnError"),
    ],
)
def test_reasons(error: SSL.Error, reason: str) -> None:
    """The library's own words, or the name of the exception."""
    assert reason_of(error) == reason


def test_only_a_refusal_of_ours_is_an_invalid_certificate() -> None:
    """An alert from the peer about our certificate is a failed handshake."""
    ours = SSL.Error([("SSL routines", "", "certificate verify failed")])
    theirs = SSL.Error([("SSL routines", "", "sslv3 alert bad certificate")])

    assert handshake_error(ours).etype is ErrorType.INVALID_CERT
    assert handshake_error(theirs).etype is ErrorType.TLS_HANDSHAKE_FAILURE
    assert handshake_error(ours).cause is ours
