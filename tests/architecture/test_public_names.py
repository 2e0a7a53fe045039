"""``__all__`` tells the whole truth: what it names is there, and nothing public is left out."""

from __future__ import annotations

import inspect
from importlib import import_module
from itertools import chain
from typing import TYPE_CHECKING

import pytest

from tests.architecture.workspace import PACKAGES, modules

if TYPE_CHECKING:
    from types import ModuleType

MODULES = tuple(chain.from_iterable(map(modules, PACKAGES)))
PUBLIC_MODULES = tuple(
    name for name in MODULES if not any(part.startswith("_") for part in name.split("."))
)


def _declared(module: ModuleType) -> list[str]:
    # Without one a module has no public classes or functions, which the tests below see to.
    names: list[str] = getattr(module, "__all__", [])
    return names


def _rank(name: str) -> tuple[int, str]:
    # The order of ruff's RUF022: constants, then classes, then the rest.
    if name.isupper():
        return 0, name
    return (1, name) if name[0].isupper() else (2, name)


@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_declared_names_exist(name: str) -> None:
    """What an ``__all__`` names is sorted, without repetition, and exists."""
    module = import_module(name)

    names = _declared(module)

    assert names == sorted(set(names), key=_rank)
    assert [name for name in names if not hasattr(module, name)] == []


@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_nothing_public_is_left_out(name: str) -> None:
    """Every public class and function that a module defines is in its ``__all__``."""
    module = import_module(name)

    defined = {
        key
        for key, value in vars(module).items()
        if not key.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == name
    }

    assert defined - set(_declared(module)) == set()


@pytest.mark.parametrize(
    "name", [name for name in PUBLIC_MODULES if hasattr(import_module(name), "__path__")]
)
def test_a_package_exports_what_it_imports(name: str) -> None:
    """What a package's ``__init__`` imports from its own modules is there to be exported."""
    package = import_module(name)

    imported = {
        key
        for key, value in vars(package).items()
        if not key.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__.startswith("pingora_")
    }

    assert imported - set(_declared(package)) == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_a_distribution_tells_its_version(package: str) -> None:
    """Each distribution exports ``__version__``."""
    module = import_module(package)

    assert "__version__" in _declared(module)
