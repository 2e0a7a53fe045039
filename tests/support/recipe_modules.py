"""The recipes of the documentation, as modules."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING

from tests.support.process import ROOT

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["load_recipe"]


def load_recipe(name: str) -> ModuleType:
    """Import a file of ``examples/recipes``, which is no package.

    Args:
        name: Its name without ``.py``.

    Returns:
        A new module.
    """
    path = ROOT / "examples" / "recipes" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module
