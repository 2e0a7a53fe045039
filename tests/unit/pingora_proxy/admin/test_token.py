"""Where the token of the admin interface comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pingora_proxy.admin import AdminToken

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "0123456789-abcdefgh"


def test_from_a_file(tmp_path: Path) -> None:
    """A file ends with a newline, mostly; it is read anew each time."""
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    token = AdminToken(file=path)

    assert token.read() == TOKEN
    path.write_text(f"{TOKEN}+2\n")
    assert token.read() == f"{TOKEN}+2"
    assert repr(token) == f"<AdminToken from file {path}>"


def test_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is not set is no token."""
    token = AdminToken(environment="SOME_TOKEN")
    monkeypatch.delenv("SOME_TOKEN", raising=False)
    with pytest.raises(ValueError, match="from environment variable SOME_TOKEN has fewer than 16"):
        token.read()
    monkeypatch.setenv("SOME_TOKEN", TOKEN)

    assert token.read() == TOKEN


@pytest.mark.parametrize("value", ["", "short", "with a space in it ....", "umlaut-ä-0123456789"])
def test_what_cannot_be_a_token(value: str) -> None:
    """Too short, or not to be sent in a header; the message does not tell it."""
    with pytest.raises(ValueError, match="the token from the program has") as caught:
        AdminToken(value=value).read()

    assert not value or value not in str(caught.value)
    assert not value or value not in repr(AdminToken(value=value))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """They are told by their name and the reason."""
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        AdminToken(file=tmp_path / "none").read()
    (tmp_path / "binary").write_bytes(b"\xff\xfe" * 20)
    with pytest.raises(ValueError, match="cannot be read: it is no text"):
        AdminToken(file=tmp_path / "binary").read()


@pytest.mark.parametrize("count", [0, 2])
def test_exactly_one_source(count: int) -> None:
    """Several would leave open which one counts."""
    with pytest.raises(ValueError, match="one source"):
        AdminToken(**dict(list({"value": TOKEN, "environment": "X"}.items())[:count]))
