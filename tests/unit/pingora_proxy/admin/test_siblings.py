"""Asking the other workers, of which some are slow, broken, or somebody else's."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from pingora_proxy.admin import siblings
from pingora_proxy.admin.siblings import Siblings
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pingora_proxy.admin.siblings import Answer

# Numbers that no process has.
_OTHER, _NEXT = 4_194_305, 4_194_306


async def _echo(question: Answer) -> Answer:
    return {"echo": question}


@asynccontextmanager
async def _started(timeout: float = 5.0) -> AsyncIterator[Siblings]:
    asking = Siblings(_echo, timeout=timeout)
    await asking.start()
    try:
        yield asking
    finally:
        await asking.stop()


@asynccontextmanager
async def _sibling(
    asking: Siblings, answer: bytes | None, pid: int = _OTHER
) -> AsyncIterator[None]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        if answer is None:
            await reader.read()
        else:
            writer.write(answer)
        await _close(writer)

    server = await asyncio.start_unix_server(serve, f"\0{asking._prefix}{pid}")
    async with server:
        yield


async def test_all_are_asked() -> None:
    """Each answer is filed by the process that gave it; one's own is not asked for."""
    async with (
        _started() as asking,
        _sibling(asking, b'{"a":1}\n'),
        _sibling(asking, b'{"b":2}\n', _NEXT),
    ):
        assert await asking.ask({"q": 1}) == {_OTHER: {"a": 1}, _NEXT: {"b": 2}}


@pytest.mark.parametrize(
    "answer", [b"", b"no json\n", b"[1]\n", b'{"half":', b'{"a":"' + b"x" * 100_000 + b'"}\n']
)
async def test_an_answer_that_is_none(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others' count nevertheless."""
    monkeypatch.setattr(siblings, "_MAX_LINE", 65536)
    async with (
        _started() as asking,
        _sibling(asking, answer),
        _sibling(asking, b'{"b":2}\n', _NEXT),
    ):
        assert await asking.ask({}) == {_OTHER: None, _NEXT: {"b": 2}}


async def test_one_that_hangs() -> None:
    """It is waited for only so long."""
    async with _started(timeout=0.05) as asking, _sibling(asking, None):
        assert await asking.ask({}) == {_OTHER: None}


async def test_somebody_else_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of the socket is no secret: who runs as another user is not spoken to."""
    async with _started() as asking, _sibling(asking, b"{}\n"):
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        assert await asking.ask({}) == {_OTHER: None}
        assert await _say(asking, b"{}\n") == b""


async def _say(asking: Siblings, line: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(f"\0{asking._prefix}{os.getpid()}")
    try:
        writer.write(line)
        await writer.drain()
        return await reader.read()
    except OSError:
        return b""
    finally:
        await _close(writer)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def test_a_fault_in_an_answer_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever an application's source raises: the other worker is not kept waiting."""

    async def fail(_: Answer) -> Answer:
        raise KeyError("no such thing")

    asking = Siblings(fail)
    await asking.start()
    try:
        assert await _say(asking, b"{}\n") == b""
        await eventually(lambda: not asking._connections)
    finally:
        await asking.stop()
    assert "no such thing" in caplog.text


async def test_questions_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no question gets no answer, and ends nothing but its connection."""
    monkeypatch.setattr(siblings, "_MAX_LINE", 65536)
    async with _started() as asking:
        for line in (b"garbage\n", b"[]\n", b"\n", b"x" * 200_000):
            assert await _say(asking, line) == b""
        assert json.loads(await _say(asking, b'{"q":1}\n')) == {"echo": {"q": 1}}


async def test_it_ends_while_somebody_asks() -> None:
    """A connection that says nothing is closed; nobody is asked any more."""
    asking = Siblings(_echo, timeout=30)
    await asking.start()
    _reader, writer = await asyncio.open_unix_connection(f"\0{asking._prefix}{os.getpid()}")
    await eventually(lambda: asking._connections)
    await asking.stop()
    await asking.stop()
    writer.close()
    await writer.wait_closed()

    assert asking._connections == set()
    assert await asking.ask({}) == {}


async def test_a_name_that_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    """The worker serves nevertheless; it just is not asked."""
    asking = Siblings(_echo)
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(f"\0{asking._prefix}{os.getpid()}")
        await asking.start()
    assert "other workers cannot ask this one" in caplog.text
    assert await asking.ask({}) == {}


async def test_a_system_without_the_list(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Then nobody else is known."""
    async with _started() as asking, _sibling(asking, b"{}\n"):
        monkeypatch.setattr(siblings, "_LIST", tmp_path / "none")
        assert await asking.ask({}) == {}
