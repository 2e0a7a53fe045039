"""Telling a store that it is a copy: in a process that was just forked."""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["abandon_after_fork"]


class _Copied(Protocol):
    def abandon(self) -> None: ...


_copied: weakref.WeakSet[_Copied] = weakref.WeakSet()


def abandon_after_fork(owner: _Copied) -> None:
    """Let an object close what it has inherited in every process that is forked from this one.

    Args:
        owner: Its ``abandon`` is called in the child, before anything else can use it.
    """
    _copied.add(owner)


def _after_fork() -> None:
    for owner in list(_copied):
        owner.abandon()


os.register_at_fork(after_in_child=_after_fork)
