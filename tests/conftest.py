"""What holds for the whole run."""

from __future__ import annotations

import gc
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Iterable

_PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "gate" if "CI" in os.environ else "patient")
_TIMES = 10
# Of the folder for temporary files: names of tests and of sockets follow.
_LONGEST = 20
# Where hypothesis keeps them; it has no public name for it.
_STATED = "_hypothesis_internal_use_settings"

# A slow machine is no failure. With CI set the examples are the same in every run, since a gate
# does not gamble; HYPOTHESIS_PROFILE=thorough makes ten times as many as each test asks for.
_patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("patient", _patient)
settings.register_profile("gate", _patient, derandomize=True, database=None)
settings.register_profile("thorough", _patient, max_examples=_TIMES * _patient.max_examples)
settings.load_profile(_PROFILE)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Keep temporary paths short: the path of a Unix socket has at most 107 bytes."""
    is_chosen: object = config.getoption("basetemp")
    if is_chosen or "PYTEST_XDIST_WORKER" in os.environ or len(tempfile.gettempdir()) <= _LONGEST:
        return
    folder = tempfile.TemporaryDirectory(prefix="pt", dir="/tmp")
    config.add_cleanup(folder.cleanup)
    config.option.basetemp = Path(folder.name) / "t"


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """Have a thorough run multiply the numbers that tests state themselves, and the time."""
    if _PROFILE != "thorough":
        return
    for item in items:
        if isinstance(item, pytest.Function):
            item.add_marker(pytest.mark.timeout(300 * _TIMES))
    functions = {item.function for item in items if isinstance(item, pytest.Function)}
    for function in functions:
        stated: object = getattr(function, _STATED, None)
        if isinstance(stated, settings) and stated.max_examples != settings().max_examples:
            more = settings(stated, max_examples=_TIMES * stated.max_examples)
            setattr(function, _STATED, more)
    for machine in {item.cls for item in items if isinstance(item, pytest.Function) and item.cls}:
        stated = getattr(machine, "settings", None)
        if isinstance(stated, settings):
            machine.settings = settings(stated, max_examples=_TIMES * stated.max_examples)


@pytest.fixture(scope="module", autouse=True)
def _old_objects_are_no_garbage() -> None:
    """Let the leak checks of a module collect the garbage of its own tests only.

    Thousands of collected and reported tests are a heap that takes tens of milliseconds to walk,
    and each leak check would do it twice.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
