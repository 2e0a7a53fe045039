"""The limit of open files: raised at the start, and minded by everything that accepts."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
from typing import TYPE_CHECKING

import pytest

from pingora_core.listeners import limits
from pingora_core.listeners.limits import (
    AcceptGuard,
    file_limit,
    get_accept_guard,
    open_files,
    raise_file_limit,
    reserve_of,
)
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator


# ----------------------------------------------------------------------------------- the limit


@pytest.fixture
def lowered() -> Iterator[int]:
    """Lower the soft limit, and tell the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(256, open_files() * 2), hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_limit_is_raised_as_far_as_allowed(
    lowered: int, caplog: pytest.LogCaptureFixture
) -> None:
    """To the hard limit, which is told; the second time there is nothing to do."""
    caplog.set_level(logging.INFO)

    assert raise_file_limit() == lowered
    assert file_limit() == lowered
    assert raise_file_limit() == lowered

    assert [record.message for record in caplog.records] == [
        f"the limit of open files is {lowered}, it was {caplog.records[0].args[1]}"  # type: ignore[index]
    ]


def test_a_limit_that_cannot_be_raised_stays(
    lowered: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """That is a warning, and no reason not to start."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    before = file_limit()
    monkeypatch.setattr(resource, "setrlimit", refuse)

    assert raise_file_limit() == before != lowered
    assert "stays" in caplog.text
    monkeypatch.undo()


def test_no_limit_is_as_high_as_the_kernel_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking for more than that would be refused even to the superuser."""
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: asked.append(both))

    raised = raise_file_limit()

    assert asked == [(raised, resource.RLIM_INFINITY)]
    assert raised > 1024


def test_open_files_are_counted() -> None:
    """One more is one more."""
    before = open_files()
    descriptor = os.open("/dev/null", os.O_RDONLY)

    assert open_files() == before + 1
    os.close(descriptor)


def test_counting_works_on_older_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the size of the directory says nothing, where it cannot be read, where it is not."""
    stat = os.stat_result((0,) * 10)
    monkeypatch.setattr(os, "stat", lambda _: stat)
    counted = open_files()
    monkeypatch.setattr(limits, "_DESCRIPTORS", "/proc/self/no-such-directory")
    unknown = open_files()

    def fail(_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "listdir", fail)

    assert counted > 2
    assert unknown == 0
    assert open_files() == file_limit()


@pytest.mark.parametrize(
    ("limit", "reserve"), [(4, 1), (64, 8), (1024, 128), (20_000, 2500), (10**9, 4096)]
)
def test_a_part_is_reserved(limit: int, reserve: int) -> None:
    """An eighth, within reason."""
    assert reserve_of(limit) == reserve


# ----------------------------------------------------------------------------------- the guard


class Member:
    """Notes what it is told."""

    def __init__(self, *, fails: int = 0) -> None:
        self.is_accepting = True
        self.told: list[str] = []
        self.fails = fails

    def pause(self) -> None:
        self.told.append("pause")
        self.is_accepting = False

    async def resume(self) -> None:
        self.told.append("resume")
        if self.fails:
            self.fails -= 1
            raise OSError(24, "Too many open files")
        self.is_accepting = True


class Process:
    """A limit of 800 with a reserve of 100, and a number of descriptors in use."""

    def __init__(self) -> None:
        self.used = 10
        self.limit: int | None = 800
        self.looks = 0
        self.guard = AcceptGuard(asyncio.get_running_loop(), self.count, lambda: self.limit)

    def count(self) -> int:
        self.looks += 1
        return self.used


async def test_accepting_pauses_while_only_the_reserve_is_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """All members, and at once; they go on when a part of the reserve is free again."""
    process = Process()
    members = [Member(), Member()]
    for member in members:
        process.guard.add(member)

    process.used = 700
    process.guard.look()
    paused = [member.is_accepting for member in members]
    process.used = 650
    process.guard.look()
    still = process.guard.is_paused
    process.used = 649
    process.guard.look()
    await eventually(lambda: all(member.is_accepting for member in members))

    assert paused == [False, False]
    assert still
    assert not process.guard.is_paused
    (line,) = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert "700 of 800 file descriptors are in use" in line
    assert "ulimit -n" in line
    for member in members:
        process.guard.remove(member)


async def test_the_trouble_is_told_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    """And its end, however often it comes and goes."""
    caplog.set_level(logging.INFO)
    process = Process()
    member = Member()
    process.guard.add(member)
    for _ in range(20):
        process.used = 800
        process.guard.look()
        process.used = 10
        process.guard.look()
        await eventually(lambda: member.is_accepting)

    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
    process.guard.remove(member)


async def test_looks_come_more_often_as_descriptors_get_fewer() -> None:
    """After a quarter of those that are left, since each connection may need more than one."""
    process = Process()
    member = Member()
    process.guard.add(member)
    process.looks = 0
    for _ in range(172):  # a quarter of 800 - 100 - 10
        process.guard.accepted()
    far = process.looks
    process.used = 695
    process.guard.look()
    process.looks = 0
    for _ in range(3):
        process.guard.accepted()

    assert far == 1
    assert process.looks == 3
    process.guard.remove(member)


async def test_the_end_of_a_connection_is_worth_a_look_in_a_pause() -> None:
    """So whoever waits does not wait for the clock; otherwise it is not."""
    process = Process()
    member = Member()
    process.guard.add(member)
    process.looks = 0
    process.guard.ended()
    idle = process.looks
    process.used = 800
    process.guard.look()
    process.used = 10

    process.guard.ended()
    paused = process.guard.is_paused
    await eventually(lambda: member.is_accepting)

    assert idle == 0
    assert not paused
    process.guard.remove(member)


async def test_a_member_that_comes_during_a_pause_pauses() -> None:
    """It has just begun to accept."""
    process = Process()
    first, second = Member(), Member()
    process.guard.add(first)
    process.used = 800
    process.guard.look()

    process.guard.add(second)

    assert second.told == ["pause"]
    process.guard.remove(first)
    process.guard.remove(first)
    process.guard.remove(second)
    assert not process.guard.is_paused


async def test_who_cannot_go_on_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    """Descriptors may have run out once more by then."""
    process = Process()
    member = Member(fails=1)
    process.guard.add(member)
    process.used = 800
    process.guard.look()
    process.used = 10

    process.guard.look()
    await eventually(lambda: process.guard.is_paused)
    await eventually(lambda: member.is_accepting)

    assert member.told == ["pause", "resume", "pause", "resume"]
    assert "accepting again failed" in caplog.text
    process.guard.remove(member)


async def test_without_a_limit_nothing_is_counted() -> None:
    """There is no need to."""
    process = Process()
    process.limit = None
    member = Member()
    process.guard.add(member)
    for _ in range(1000):
        process.guard.accepted()

    assert process.looks == 0
    process.guard.remove(member)


async def test_a_limit_that_is_lifted_ends_the_pause() -> None:
    """An operator can do that to a process that runs (prlimit(1))."""
    process = Process()
    member = Member()
    process.guard.add(member)
    process.used = 800
    process.guard.look()

    process.limit = None
    await eventually(lambda: member.is_accepting)

    process.guard.remove(member)


async def test_a_loop_has_one_guard() -> None:
    """All listeners of the process see the same descriptors."""
    guard = get_accept_guard()

    assert get_accept_guard() is guard
