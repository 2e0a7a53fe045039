"""What holds for the whole run."""

from __future__ import annotations

import gc

import pytest


@pytest.fixture(scope="module", autouse=True)
def _old_objects_are_no_garbage() -> None:
    """Let the leak checks of a module collect the garbage of its own tests only.

    Thousands of collected and reported tests are a heap that takes tens of milliseconds to walk,
    and each leak check would do it twice.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
