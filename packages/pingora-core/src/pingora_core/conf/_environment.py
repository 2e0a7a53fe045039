"""The server's keys in the environment: ``PINGORA_WORKERS=auto`` and so on.

For what is decided where a program is started, not where its file is written: containers above
all. A variable has the last word before the command line.
"""

from __future__ import annotations

import difflib
import logging
from types import NoneType
from typing import TYPE_CHECKING, Final, get_args

from pingora_core.conf._load import convert_value, load_value, refuse_value
from pingora_core.conf._types import UMASK_ALLOWED, Text, Umask, parse_umask

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["CONF_VARIABLE", "PREFIX", "place_of", "read_environment", "resembling"]

_logger = logging.getLogger(__name__)

PREFIX: Final = "PINGORA_"
"""What the names of the variables begin with; the key follows, in capitals."""

CONF_VARIABLE: Final = PREFIX + "CONF"
"""Names the configuration file where the command line does not."""


def place_of(name: str) -> str:
    """Say what messages call a variable.

    Args:
        name: Of the variable.

    Returns:
        Words.
    """
    return f"environment variable {name}"


def read_environment(
    environ: Mapping[str, str], hints: Mapping[str, object]
) -> dict[str, tuple[object, str]]:
    """Read the values of all keys that the environment has.

    A variable that is empty counts as not set, as templates leave it. A value is written as in
    YAML, lists as ``[a, b]``; where the key takes text, nothing in it is special but ``null``.

    Args:
        environ: The variables.
        hints: The types of the keys.

    Returns:
        By key its value, checked, and where it is from.

    Raises:
        Error: ``CONFIG_ERROR`` that names the variable, its value and what is allowed.
    """
    found: dict[str, tuple[object, str]] = {}
    for name, key, text in _variables(environ):
        hint = hints.get(key)
        if hint is not None and name == _name(key):
            place = place_of(name)
            found[key] = (convert_value(_read(text, hint, place), hint, place), place)
        elif name != CONF_VARIABLE:
            close = resembling(key, hints)
            if close is not None:
                _logger.warning(
                    "%s is none of the server's; is %s meant?", place_of(name), _name(close)
                )
    return found


def resembling(key: str, known: Mapping[str, object]) -> str | None:
    """Find the key that is meant by one with a slip of the pen.

    Args:
        key: What was written.
        known: The keys that there are.

    Returns:
        The likely one; None if none is.
    """
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.85)
    return close[0] if close else None


def _variables(environ: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    for name in sorted(environ):
        if name.startswith(PREFIX) and environ[name]:
            yield name, name.removeprefix(PREFIX).lower(), environ[name]


def _name(key: str) -> str:
    return PREFIX + key.upper()


def _read(text: str, hint: object, place: str) -> object:
    options = (hint, *get_args(hint))
    if NoneType in options and text == "null":
        return None
    if Text in options:
        return text
    if Umask in options:
        mode = parse_umask(text)
        if mode is None:
            refuse_value(place, "", text, UMASK_ALLOWED)
        return mode
    return load_value(text, place)
