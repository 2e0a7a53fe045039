"""The pages of the reference are those that the modules ask for."""

from __future__ import annotations

import importlib

from docs_reference import MENU, PAGES, find_places, make_menu, make_pages

_ADVICE = "run python tools/docs_reference.py"


def test_the_pages_are_up_to_date() -> None:
    """Each place to import from has a page, and there is no page of anything else."""
    assert {path.name: path.read_text() for path in PAGES.glob("*.md")} == make_pages(), _ADVICE


def test_the_menu_is_up_to_date() -> None:
    """All of them are in the menu."""
    assert make_menu() in MENU.read_text(), _ADVICE


def test_every_public_name_has_a_place() -> None:
    """What a module exports is on its own page or on that of a package above it."""
    places = {name: importlib.import_module(name) for name in find_places("pingora_core")}
    shown = [getattr(module, name) for module in places.values() for name in module.__all__]
    hidden = importlib.import_module("pingora_core.services.listening")

    assert hidden.__name__ not in places
    assert [name for name in hidden.__all__ if getattr(hidden, name) not in shown] == []
