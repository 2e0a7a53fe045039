"""Clients are told apart by their keys."""

from __future__ import annotations

from hashlib import sha256

import pytest

from pingora_http import RequestHeader
from pingora_proxy.bearer import BearerKeys

_KEYS = BearerKeys({sha256(b"a-key").hexdigest().upper(): "a", sha256(b"\xe9").hexdigest(): "e"})


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ([b"Bearer a-key"], "a"),
        ([b"bearer  a-key "], "a"),
        ([b"Bearer \xe9"], "e"),
        ([b"Bearer b-key"], None),
        ([b"a-key"], None),
        ([b"Basic a-key"], None),
        ([b"Bearer"], None),
        ([b""], None),
        ([], None),
        ([b"Bearer a-key", b"Bearer a-key"], None),
    ],
)
def test_a_key_names_its_client(fields: list[bytes], name: str | None) -> None:
    """In whatever case the scheme is; without a key, with another one or two there is nobody."""
    request = RequestHeader("GET", "/", headers=[("Authorization", field) for field in fields])
    assert _KEYS.name_of(request) == name


def test_a_key_in_the_clear_is_refused() -> None:
    """The message does not repeat it."""
    with pytest.raises(ValueError, match=r"'alice' must be given as its SHA-256") as refused:
        BearerKeys({"secret": "alice"})
    assert "secret" not in str(refused.value)
