"""What holds for the whole run."""

from __future__ import annotations

import gc


def pytest_collection_finish() -> None:
    """Let the leak checks collect the garbage of their test only.

    Thousands of collected tests are a heap that takes 40 ms to walk, twice for each check. What
    exists before the first test cannot have been leaked by one.
    """
    gc.collect()
    gc.freeze()
