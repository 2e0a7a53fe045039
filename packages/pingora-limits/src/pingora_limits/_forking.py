"""Telling objects that they are a copy: in a process that was just forked."""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["forget_after_fork"]


class _Forgetful(Protocol):
    def forget(self) -> None: ...


_forgetful: weakref.WeakSet[_Forgetful] = weakref.WeakSet()


def forget_after_fork(owner: _Forgetful) -> None:
    """Let an object forget what it has counted in every process that is forked from this one.

    Args:
        owner: Its ``forget`` is called in the child, before anything else can use it.
    """
    _forgetful.add(owner)


def _after_fork() -> None:
    for owner in list(_forgetful):
        owner.forget()


os.register_at_fork(after_in_child=_after_fork)
