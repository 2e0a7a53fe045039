"""What of a request is in logs: no secrets, nothing that looks like another line, not too much."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st

from pingora_proxy._log_text import cut, printable, readable, redact

SECRET = frozenset({b"token", b"password", b"key"})


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"", b""),
        (b"q=1&token=x", b"q=1&token=***"),
        (b"TOKEN=x&q=1", b"TOKEN=***&q=1"),
        (b"%74oken=x", b"%74oken=***"),
        (b"%54%4fKEN=x&a=b", b"%54%4fKEN=***&a=b"),
        (b"+token=x", b"+token=***"),
        (b"a=1;token=x;b=2", b"a=1;token=***;b=2"),
        (b"token=a=b?c&q=1", b"token=***&q=1"),
        (b"user[password]=x&user[name]=y", b"user[password]=***&user[name]=y"),
        (b"key[]=x", b"key[]=***"),
        (b"token&flag", b"token&flag"),
        (b"tokens=1", b"tokens=1"),
        (b"token=", b"token=***"),
        (b"https://a.test/p?token=x#part", b"https://a.test/p?token=***#part"),
        (b"https://a.test/#token=x&state=1", b"https://a.test/#token=***&state=1"),
        (b"https://me:word@a.test/x", b"https://***@a.test/x"),
        (b"https://me:w@rd@a.test/x", b"https://***@a.test/x"),
        (b"//me@a.test/x", b"//***@a.test/x"),
        (b"/@me?at=x@y", b"/@me?at=x@y"),
        (b"0; url=https://me:word@a.test/", b"0; url=https://***@a.test/"),
    ],
)
def test_values_of_secret_parameters_are_hidden(raw: bytes, shown: bytes) -> None:
    """Whatever the case and the encoding of the name, and wherever a URL has parameters."""
    assert redact(raw, SECRET) == shown


@given(st.binary(max_size=60), st.sampled_from([b"token", b"%74oken", b"toKen", b"key[a]"]))
def test_no_secret_is_shown(around: bytes, name: bytes) -> None:
    """Whatever stands before it."""
    raw = around + b"&" + name + b"=hunter2"
    assert b"hunter2" not in redact(raw, SECRET)


@pytest.mark.parametrize("piece", [b"a", b"//", b"a:", b"@", b"?", b"[", b"&a"])
def test_what_clients_make_long_takes_no_longer_than_it_is(piece: bytes) -> None:
    """If each place of a text were searched to its end, this would take minutes."""
    raw = piece * 500_000
    assert redact(raw + b"=@", SECRET)[:2] == raw[:2]


@given(st.binary(max_size=60))
def test_what_is_printed_is_one_line_of_ascii(raw: bytes) -> None:
    """Bytes of any sort."""
    text = printable(raw)
    assert text.isascii()
    assert text.isprintable() or not text


def test_what_is_long_is_cut() -> None:
    """A request's target may be as long as the limit of its head."""
    assert cut(b"x" * 4096) == b"x" * 4096
    assert cut(b"x" * 60_000) == b"x" * 4096 + b"..."
    assert readable("x" * 60_000) == "x" * 4096 + "..."


def test_text_that_cannot_be_encoded_is_escaped() -> None:
    """Such as that of an exception which quotes what it could not decode."""
    assert json.loads(json.dumps(readable("a\udcff"))).encode() == b"a\\udcff"
