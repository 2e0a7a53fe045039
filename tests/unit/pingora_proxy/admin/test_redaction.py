"""A configuration without its secrets."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from hypothesis import given, settings, strategies as st

from pingora_core.conf import ServerConf
from pingora_proxy.admin.redaction import HIDDEN, REDACTED, is_secret_name, redact, visible


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
    """The names below it as well; nothing, yes and no are shown: whether it is set is worth it."""
    found = redact(
        {
            "auth": {"user": "bob", "sk-live-1": "x"},
            "plain": {"user": "bob"},
            "tokens": ["a", {"sk-live-2": 1}],
            "password": None,
            "use_auth": True,
        }
    )

    assert found == {
        "auth": REDACTED,
        "plain": {"user": "bob"},
        "tokens": [REDACTED, REDACTED],
        "password": None,
        "use_auth": True,
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
        ("host=db user=me password=hunter2 port=1", f"host=db user=me password={REDACTED} port=1"),
        ("host=db password='hunter2 x' port=1", f"host=db password={REDACTED} port=1"),
        ("a,b,password=hunter2,c", f"a,b,password={REDACTED}"),
        ("X-Api-Key: hunter2", f"X-Api-Key: {REDACTED}"),
        ("\n\n  X-Api-Key: hunter2", f"\n\nX-Api-Key: {REDACTED}"),
        ("Accept: a, Bearer hunter2", f"Accept: a, Bearer {REDACTED}"),
        ("redis://u:" + "hunter2" * 900 + "@db", f"redis://{REDACTED}@db"),
        ("x" * 70_000, REDACTED),
        ("plain", "plain"),
    ],
)
def test_texts_are_looked_into(text: str, shown: str) -> None:
    """Passwords in URLs, secret parameters and private keys are hidden wherever they are."""
    assert redact({"url": text}) == {"url": shown}


@pytest.mark.parametrize(
    "piece", ["\n", " \n", ",", "a,", "a\n", "a ", ":", "=", "@", "://", "a='"]
)
def test_texts_take_no_longer_than_they_are(piece: str) -> None:
    """If each place of a text were searched to its end, this would take minutes."""
    text = (piece * 60_000)[:60_000]
    shown = redact({str(number): text for number in range(10)})
    assert isinstance(shown, dict)
    assert len(shown) == 10


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
    """All keys of the server itself are shown: none of them is taken for a secret."""
    found = redact(ServerConf(workers=2))

    assert isinstance(found, dict)
    assert found["workers"] == 2
    assert REDACTED not in json.dumps(found)


def test_headers_as_pairs() -> None:
    """A name in one value says what the other one is."""
    found = redact(
        {"headers": [{"name": "Authorization", "value": "x"}, {"name": "a", "value": 1}]}
    )

    assert found == {
        "headers": [{"name": "Authorization", "value": REDACTED}, {"name": "a", "value": 1}]
    }


def test_of_the_application_only_what_may_be() -> None:
    """Sections are named, and what is in them is hidden but for the parts that the program named."""
    sections = {
        "limits": {"rate": 5, "password": "hunter2"},
        "routes": {"web": {"path": "/"}, "hunter2": {"path": "/x"}},
        "hooks": ["hunter2"],
        "token": "hunter2",
    }

    assert visible(sections, ()) == dict.fromkeys(sections, HIDDEN)
    assert visible(sections, ("limits", "routes.web", "nothing", "hooks.x", "token")) == {
        "limits": {"rate": 5, "password": REDACTED},
        "routes": {"web": {"path": "/"}, "...": HIDDEN},
        "hooks": HIDDEN,
        "token": REDACTED,
    }


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=20,
)


_NEEDLE = "hunter2"
_SECRETS = st.recursive(
    st.sampled_from([_NEEDLE, f"x{_NEEDLE}", f"redis://u:{_NEEDLE}@db/", f"Bearer {_NEEDLE}"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "name", _NEEDLE]), inner, max_size=3)
    ),
    max_leaves=10,
)


@settings(max_examples=80)
@given(st.dictionaries(st.sampled_from(["app", "limits", "routes"]), _SECRETS), st.sets(st.text()))
def test_what_nobody_has_allowed_is_never_shown(
    sections: dict[str, object], shown: set[str]
) -> None:
    """Whatever it is called, and however deep it is, names of mappings included."""
    allowed = [each for each in shown if each.partition(".")[0] not in sections]

    assert _NEEDLE not in json.dumps(visible(sections, allowed))


@settings(max_examples=80)
@given(
    st.sampled_from(["password", "API-KEY", "authToken", "clientSecret", "cookie", "dsn"]), _SECRETS
)
def test_what_is_allowed_has_no_secret_by_its_name(name: str, value: object) -> None:
    """Below a name that stands for a secret nothing is shown, in a part that may be."""
    assert _NEEDLE not in json.dumps(visible({"app": {"x": [{name: value}]}}, ["app"]))


@settings(max_examples=60)
@given(_JSON)
def test_it_can_always_be_written(value: object) -> None:
    """Whatever is in a configuration."""
    assert json.dumps(redact({"a": value}), allow_nan=False)
    assert json.dumps(visible({"a": {"b": value}}, ["a.b"]), allow_nan=False)


def test_it_is_bounded() -> None:
    """What holds itself, and what is very large, comes to an end."""
    loop: dict[str, object] = {"many": list(range(5000)), "long": "x" * 10_000}
    loop["self"] = loop

    text = json.dumps(redact(loop))

    assert '"..."' in text
    assert len(text) < 200_000
