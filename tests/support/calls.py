"""How much work something is, told by calls instead of time."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

__all__ = ["count_calls"]


def count_calls(work: Callable[[], object]) -> int:
    """Count the calls of Python functions, and how often generators go on.

    Args:
        work: What to do.

    Returns:
        How many there were.
    """
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        _ = frame, argument
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return calls
