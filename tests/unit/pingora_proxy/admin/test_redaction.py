"""A configuration without its secrets."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from hypothesis import given, settings, strategies as st

from pingora_core.conf import ServerConf
from pingora_proxy.admin.redaction import REDACTED, is_secret_name, redact


@pytest.mark.parametrize(
    "name",
    ["password", "db_password", "API-KEY", "apiKey", "accessToken", "client.secret", "authorization",
     "privateKey", "aws_secret_access_key", "DSN", "sentryDSN", "api_keys", "cookie", "HMACKey"],
)  # fmt: skip
def test_names_of_secrets(name: str) -> None:
    """However they are written."""
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    ["listen", "upstream_debug_ssl_keylog", "ca_file", "author", "monkey", "compass", "name"],
)
def test_other_names(name: str) -> None:
    """A word that only contains one is not hidden."""
    assert not is_secret_name(name)


def test_everything_below_a_secret_name_is_hidden() -> None:
    """Nothing, yes and no are shown, since whether it is set is worth knowing."""
    found = redact(
        {
            "auth": {"user": "bob", "list": ["a", 1], "enabled": True, "pin": None},
            "plain": {"user": "bob"},
            "tokens": ["a", "b"],
        }
    )

    assert found == {
        "auth": {"user": REDACTED, "list": [REDACTED, REDACTED], "enabled": True, "pin": None},
        "plain": {"user": "bob"},
        "tokens": [REDACTED, REDACTED],
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://user:hunter2@db:6379/0", f"redis://{REDACTED}@db:6379/0"),
        ("redis://:hunter2@db", f"redis://{REDACTED}@db"),
        ("http://a:b@c@host/", f"http://{REDACTED}@host/"),
        ("https://x.test/?a=1&api_key=hunter2#f", f"https://x.test/?a=1&api_key={REDACTED}#f"),
        ("-----BEGIN EC PRIVATE KEY-----\nhunter2", REDACTED),
        ("https://x.test/a@b", "https://x.test/a@b"),
        ("plain", "plain"),
    ],
)
def test_texts_are_looked_into(text: str, shown: str) -> None:
    """Passwords in URLs, secret parameters and private keys are hidden wherever they are."""
    assert redact({"url": text}) == {"url": shown}


def test_anything_else_is_told_by_its_type() -> None:
    """What cannot be written as JSON is not guessed at."""

    @dataclass
    class Part:
        size: int
        secret: str
        ratio: float = float("inf")

    found = redact({"part": Part(1, "hunter2"), "o": object(), "b": b"hunter2", "s": {3}})

    assert found == {
        "part": {"size": 1, "secret": REDACTED, "ratio": "inf"},
        "o": "<object>",
        "b": "<bytes>",
        "s": [3],
    }


def test_a_server_configuration() -> None:
    """Sections of the application's own are shown without their secrets."""
    conf = ServerConf.from_yaml("workers: 2\napp: {redis: 'redis://:hunter2@db', token: hunter2}")
    found = redact(conf)

    assert isinstance(found, dict)
    assert found["workers"] == 2
    assert found["extra"] == {"app": {"redis": f"redis://{REDACTED}@db", "token": REDACTED}}
    assert "hunter2" not in json.dumps(found)


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=20,
)


@settings(max_examples=60)
@given(_JSON)
def test_it_can_always_be_written(value: object) -> None:
    """Whatever is in a configuration; and a secret is never in it."""
    text = json.dumps(
        redact({"a": value, "password": ["hunter2", {"x": "hunter2"}]}), allow_nan=False
    )

    assert text.count("hunter2") == str(value).count("hunter2")


def test_it_is_bounded() -> None:
    """What holds itself, and what is very large, comes to an end."""
    loop: dict[str, object] = {"many": list(range(5000)), "long": "x" * 10_000}
    loop["self"] = loop

    text = json.dumps(redact(loop))

    assert '"..."' in text
    assert len(text) < 200_000
