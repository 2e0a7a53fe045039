"""What of a head goes on, and what belongs to one connection only (RFC 9110 section 7.6.1)."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from pingora_core import HttpPeer
from pingora_http import RequestHeader, ResponseHeader, Version
from pingora_proxy._upstream_request import clean_response, complete_framing, make_upstream_request

HOP = ["Connection", "Keep-Alive", "Proxy-Connection", "TE", "Upgrade"]


def request(*fields: tuple[str, str], method: str = "GET", target: str = "/") -> RequestHeader:
    return RequestHeader(method, target, headers=[("Host", "a"), *fields])


@pytest.mark.parametrize("name", HOP)
def test_hop_by_hop_fields_do_not_go_on(name: str) -> None:
    """Each of them is removed from the copy, and stays in the original."""
    original = request((name, "x"), ("X-Other", "1"))

    made = make_upstream_request(original, upgrade=False)

    assert name not in made
    assert made.get("x-other") == "1"
    assert name in original


def test_fields_that_connection_names_do_not_go_on() -> None:
    """Whatever their case; but nobody can have framing, Host or length removed that way."""
    original = request(
        ("Connection", "X-Secret, content-length, HOST"),
        ("connection", "close"),
        ("x-secret", "1"),
        ("Content-Length", "3"),
    )

    made = make_upstream_request(original, upgrade=False)

    assert [name for name, _ in made] == ["Host", "Content-Length"]


def test_an_upgrade_keeps_what_asks_for_it() -> None:
    """Connection is written anew, so that it names nothing else."""
    original = request(
        ("Connection", "keep-alive, Upgrade, X-Secret"), ("Upgrade", "websocket"), ("X-Secret", "1")
    )

    made = make_upstream_request(original, upgrade=True)

    assert made.get("connection") == "Upgrade"
    assert made.get("upgrade") == "websocket"
    assert "x-secret" not in made


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        ("http://a/b?c=d", "/b?c=d"),
        ("http://a", "/"),
        ("http://a?c", "/?c"),
        ("/b//c?d", "/b//c?d"),
    ],
)
def test_the_target_goes_on_in_origin_form(target: str, sent: str) -> None:
    """The absolute form is for proxies; an origin gets the path."""
    assert make_upstream_request(request(target=target), upgrade=False).raw_target == sent.encode()


def test_the_version_is_our_own() -> None:
    """An HTTP/1.0 client does not make the upstream's connection one of HTTP/1.0."""
    original = RequestHeader("GET", "/", version=Version.HTTP_10)

    assert make_upstream_request(original, upgrade=False).version is Version.HTTP_11


def test_what_cannot_be_missing_is_completed() -> None:
    """Host from the peer, chunked for a body without a length; a coding ends a length."""
    peer = HttpPeer("127.0.0.1:80", sni="peer.test")
    bare = RequestHeader("POST", "/")
    both = request(("Content-Length", "3"), ("Transfer-Encoding", "chunked"))

    complete_framing(bare, peer, has_body=True)
    complete_framing(both, peer, has_body=True)

    assert list(bare) == [("Host", "peer.test"), ("Transfer-Encoding", "chunked")]
    assert "content-length" not in both


def test_a_request_without_a_body_gets_no_framing() -> None:
    """Nothing is made up where nothing follows."""
    header = request()

    complete_framing(header, HttpPeer("127.0.0.1:80"), has_body=False)

    assert list(header) == [("Host", "a")]


@given(st.lists(st.sampled_from([*HOP, "Transfer-Encoding", "X-A", "X-B", "Set-Cookie"])))
def test_responses_are_cleaned_whatever_their_fields(names: list[str]) -> None:
    """Only end-to-end fields are left, in their order."""
    response = ResponseHeader(200, headers=[(name, "x") for name in names])

    clean_response(response)

    gone = {"Connection", "Keep-Alive", "Proxy-Connection", "Upgrade", "Transfer-Encoding"}
    assert [name for name, _ in response] == [name for name in names if name not in gone]
