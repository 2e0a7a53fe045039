"""Everything public is documented: what it is, and what each argument means.

The linter sees to the form (ruff's D and DOC rules) but passes a docstring without any ``Args``.
"""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from typing import TYPE_CHECKING, is_typeddict

import pytest

from tests.architecture.test_public_names import PUBLIC_MODULES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FunctionType

_SECTION = re.compile(r"^(?:Args|Attributes):\n((?: {4}.*\n|\n)*)", re.MULTILINE)
_ENTRY = re.compile(r"^ {4}\*{0,2}(\w+)(?: \(.*\))?:", re.MULTILINE)


def _told(value: object) -> set[str]:
    # Of the object itself: what a base says is looked at there.
    text = inspect.cleandoc(getattr(value, "__doc__", None) or "") + "\n"
    return {entry for section in _SECTION.findall(text) for entry in _ENTRY.findall(section)}


def _untold(function: FunctionType, *told_by: object) -> list[str]:
    told = set().union(*map(_told, told_by))
    names = list(inspect.signature(function).parameters)
    return [name for name in names if name not in {"self", "cls", *told} and name[0] != "_"]


def _public_methods(cls: type) -> Iterator[tuple[str, object]]:
    for name, value in vars(cls).items():
        function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if name[0] != "_" and (inspect.isfunction(function) or isinstance(value, property)):
            yield name, function


def _problems_of_class(cls: type) -> Iterator[str]:
    if not (vars(cls).get("__doc__") or "").strip():
        yield f"{cls.__name__}: no docstring"
    make = vars(cls).get("__init__")
    if inspect.isfunction(make) and not is_typeddict(cls) and not _is_protocol(cls):
        untold = _untold(make, *cls.__mro__[:-1])
        if untold:
            yield f"{cls.__name__}: does not tell {', '.join(untold)}"
    for name, function in _public_methods(cls):
        bases = [vars(base)[name] for base in cls.__mro__[1:] if name in vars(base)]
        documented = [each for each in (function, *bases) if getattr(each, "__doc__", None)]
        if not documented:
            yield f"{cls.__name__}.{name}: no docstring"
        elif inspect.isfunction(function):
            untold = _untold(function, *documented)
            if untold:
                yield f"{cls.__name__}.{name}: does not tell {', '.join(untold)}"


def _is_protocol(cls: type) -> bool:
    return getattr(cls, "_is_protocol", False)


def _problems(name: str) -> Iterator[str]:
    module = import_module(name)
    if not (module.__doc__ or "").strip():
        yield "no docstring"
    for key in getattr(module, "__all__", []):
        value = getattr(module, key)
        if getattr(value, "__module__", None) != name:
            continue
        if inspect.isclass(value):
            yield from _problems_of_class(value)
        elif inspect.isfunction(value):
            if not value.__doc__:
                yield f"{key}: no docstring"
            elif untold := _untold(value, value):
                yield f"{key}: does not tell {', '.join(untold)}"


@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_everything_public_is_told(name: str) -> None:
    """Public modules, classes, functions and methods say what they are, and what they take."""
    assert list(_problems(name)) == []
