"""Who may use the admin interface."""

from __future__ import annotations

import pytest

from pingora_http import RequestHeader
from pingora_proxy.admin.guard import Guard, Refusal, host_name, is_loopback_name

TOKEN = "0123456789-abcdefgh"


def _request(*fields: tuple[str, str], host: str = "127.0.0.1:6190") -> RequestHeader:
    return RequestHeader("GET", "/overview", headers=[("Host", host), *fields])


def _refusal(guard: Guard, request: RequestHeader) -> int:
    with pytest.raises(Refusal) as caught:
        guard.check(request, is_local_socket=False)
    return caught.value.status


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:6190", "127.0.0.1", "localhost:6190", "LOCALHOST", "[::1]:6190", "10.1.2.3:80",
     "box.localhost", "admin.test:6190", "Admin.Test."],
)  # fmt: skip
def test_addresses_localhost_and_allowed_names_are_served(host: str) -> None:
    """No other site can have these for its own name."""
    Guard(None, ["admin.test"]).check(_request(host=host), is_local_socket=False)


@pytest.mark.parametrize("host", ["evil.test", "evil.test:6190", "127.0.0.1.evil.test", "", "[x]"])
def test_other_names_are_not(host: str) -> None:
    """A site that has its own name resolve to a loopback address is told apart by the name."""
    guard = Guard(None, ["admin.test"])

    assert _refusal(guard, _request(host=host)) == 421
    with pytest.raises(Refusal):
        guard.check_page(_request(host=host), is_local_socket=False)
    guard.check(_request(host=host), is_local_socket=True)
    assert guard.refused == 2


@pytest.mark.parametrize(
    "origin",
    ["https://evil.test", "null", "http://127.0.0.1:6191", "http://127.0.0.1", "127.0.0.1:6190", "",
     "file://127.0.0.1:6190", "http://127.0.0.1:6190.evil.test"],
)  # fmt: skip
def test_other_origins_are_refused(origin: str) -> None:
    """Whatever a browser says of a request of another site, it is none of ours."""
    assert _refusal(Guard(None), _request(("Origin", origin))) == 403


def test_the_same_origin_is_served() -> None:
    """The page may ask; behind TLS that somebody else has ended, too."""
    guard = Guard(None)
    for origin in ("http://127.0.0.1:6190", "https://127.0.0.1:6190"):
        request = _request(("Origin", origin), ("Sec-Fetch-Site", "same-origin"))
        guard.check(request, is_local_socket=False)
    guard.check(_request(("Sec-Fetch-Site", "none")), is_local_socket=False)


@pytest.mark.parametrize("site", ["cross-site", "same-site", "whatever", ""])
def test_other_sites_are_refused(site: str) -> None:
    """Without an Origin, as for images and scripts, Sec-Fetch-Site tells."""
    assert _refusal(Guard(None), _request(("Sec-Fetch-Site", site))) == 403


@pytest.mark.parametrize(
    "field", [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER   {TOKEN} "], ids=repr
)
def test_the_token_is_accepted(field: str) -> None:
    """The scheme's case does not matter (RFC 9110 section 11.1)."""
    Guard(TOKEN).check(_request(("Authorization", field)), is_local_socket=False)


@pytest.mark.parametrize(
    "field",
    ["", "Bearer", "Bearer ", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}",
     f"Bearer {TOKEN.upper()}", "Bearer \xff"],
    ids=repr,
)  # fmt: skip
def test_anything_else_is_not(field: str) -> None:
    """A wrong token is refused, over a Unix socket as well."""
    guard = Guard(TOKEN)

    assert _refusal(guard, _request(("Authorization", field))) == 401
    with pytest.raises(Refusal):
        guard.check(_request(("Authorization", field)), is_local_socket=True)


def test_a_request_without_a_token_is_told_how() -> None:
    """The challenge names the scheme; the page needs none."""
    guard = Guard(TOKEN)
    with pytest.raises(Refusal) as caught:
        guard.check(_request(), is_local_socket=False)

    assert caught.value.headers == (("WWW-Authenticate", 'Bearer realm="pingora admin"'),)
    guard.check_page(_request(), is_local_socket=False)


def test_another_token_takes_its_place() -> None:
    """After that the old one is worth nothing."""
    guard = Guard(TOKEN)
    guard.set_token("another-token-0123456789")

    assert _refusal(guard, _request(("Authorization", f"Bearer {TOKEN}"))) == 401
    guard.set_token(None)
    assert not guard.asks_for_token
    guard.check(_request(), is_local_socket=False)


def test_the_target_has_the_last_word() -> None:
    """A request with an absolute target is for the host in there (RFC 9112 section 3.2.2)."""
    request = RequestHeader(
        "GET", "http://evil.test/overview", headers=[("Host", "127.0.0.1:6190")]
    )
    assert _refusal(Guard(None), request) == 421


def test_names_of_this_machine() -> None:
    """Loopback addresses in whatever writing, and localhost with what is below it."""
    here = ("127.0.0.1:80", "127.8.8.8:80", "[::1]:80", "localhost:80", "a.localhost")
    elsewhere = ("0.0.0.0:80", "[::]:80", "10.0.0.1:80", "example.com:80", "localhost.evil.test")

    assert [is_loopback_name(host_name(each)) for each in here] == [True] * len(here)
    assert [is_loopback_name(host_name(each)) for each in elsewhere] == [False] * len(elsewhere)
