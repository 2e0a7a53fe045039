"""The page about a server's configuration: up to date, and complete."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import pytest

from devtool import configuration
from pingora_core.conf._keys import ACCEPTED, ServerKeys

if TYPE_CHECKING:
    from pathlib import Path


def test_the_page_is_what_its_generator_writes() -> None:
    """Whoever changes a key writes the page anew: ``./tools/dev check --fix``."""
    assert configuration.PAGE.read_text(encoding="utf-8") == configuration.render()


def test_every_key_has_a_row() -> None:
    """With what is allowed, a default and a meaning."""
    page = configuration.render()
    rows = {
        cells[1].strip("` "): cells
        for cells in (line.split("|") for line in page.splitlines())
        if len(cells) > 1
    }

    for each in fields(ServerKeys):
        if each.name in ACCEPTED:
            assert f"`{each.name}`" in page
        else:
            assert len(rows[each.name]) == 7
            assert all(cell.strip() for cell in rows[each.name][1:-1])
    assert rows["workers"][2:5] == [
        " a whole number from 1 to 1024, or auto ",
        " `1` ",
        " workers ",
    ]


def test_a_key_in_no_group_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left out without a word."""
    monkeypatch.delitem(configuration._GROUPS, "Workers")

    with pytest.raises(ValueError, match="each key once"):
        configuration.render()


def test_a_page_of_yesterday_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``--check`` fails with what to do, and the generator mends it."""
    monkeypatch.setattr(configuration, "PAGE", tmp_path / "configuration.md")
    assert configuration.main(["--check"]) == 1
    assert "./tools/dev check --fix" in capsys.readouterr().out

    assert configuration.main([]) == 0
    assert configuration.main(["--check"]) == 0
