"""The examples and recipes of the documentation, as modules."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING

from tests.support.process import ROOT

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["load_example", "load_recipe"]


def load_recipe(name: str) -> ModuleType:
    """Import a file of ``examples/recipes``, which is no package.

    Args:
        name: Its name without ``.py``.

    Returns:
        A new module.
    """
    return _load(f"recipe_{name}", f"recipes/{name}.py")


def load_example(name: str) -> ModuleType:
    """Import a file of ``examples``, which is no package.

    Args:
        name: Its name without ``.py``.

    Returns:
        A new module.
    """
    return _load(f"example_{name}", f"{name}.py")


def _load(module_name: str, file: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(module_name, ROOT / "examples" / file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module
