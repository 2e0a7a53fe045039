"""The file: when it is read, and what stays when it cannot be."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pingora_error import Error
from pingora_load_balancing.discovery import FileDiscovery, SourceOptions
from tests.support.discovery_watch import FakeTime, addresses, watching
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("no_leaks")


def replace(path: Path, text: str) -> None:
    """Replace a file at once, as is right."""
    other = path.with_name("other")
    other.write_text(text)
    other.rename(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "backends.yaml"
    file.write_text("[10.0.0.1:80]\n")
    return file


def write(path: Path, text: str) -> None:
    """Write a file in place, as is common."""
    path.write_text(text)


def fast() -> SourceOptions:
    time = FakeTime()
    return SourceOptions(clock=time, sleep=time.sleep)


async def test_discover(path: Path) -> None:
    """Asked, it tells what the file says now; a file that has not changed is not read again."""
    source = FileDiscovery(path, options=fast())
    first = await source.discover()
    again = await source.discover()
    replace(path, "[10.0.0.2:80]\n")

    assert addresses(first) == ["10.0.0.1:80"]
    assert again is first
    assert addresses(await source.discover()) == ["10.0.0.2:80"]


async def test_json_by_name(tmp_path: Path) -> None:
    """A name that ends in .json stands for strict JSON, unless told otherwise."""
    file = tmp_path / "backends.json"
    file.write_text("[10.0.0.1:80]")
    with pytest.raises(Error, match="not a list of backends"):
        await FileDiscovery(file).discover()

    assert addresses(await FileDiscovery(file, form="yaml").discover()) == ["10.0.0.1:80"]
    file.write_text('["10.0.0.1:80"]')
    assert addresses(await FileDiscovery(str(file)).discover()) == ["10.0.0.1:80"]


async def test_watch(path: Path) -> None:
    """Replaced, written in place, or reached by another link: the change is told."""
    async with watching(FileDiscovery(path, options=fast())) as watch:
        await watch.shows(["10.0.0.1:80"])
        replace(path, "[10.0.0.2:80]\n")
        await watch.shows(["10.0.0.2:80"])
        write(path, "[10.0.0.3:80]\n")
        await watch.shows(["10.0.0.3:80"])

    assert watch.failures == 0
    assert len(watch.answers) == 3


async def test_links_are_followed(tmp_path: Path) -> None:
    """A link that is turned to another file is a change, as in mounted ConfigMaps."""
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "list").write_text(f"[10.0.0.{name}:80]")
    (tmp_path / "data").symlink_to("1")
    async with watching(FileDiscovery(tmp_path / "data" / "list", options=fast())) as watch:
        await watch.shows(["10.0.0.1:80"])
        (tmp_path / "new").symlink_to("2")
        (tmp_path / "new").rename(tmp_path / "data")
        await watch.shows(["10.0.0.2:80"])


async def test_touching_is_no_change(path: Path) -> None:
    """A file that looks new and says the same is not told."""
    source = FileDiscovery(path, options=fast())
    first = await source.discover()
    os.utime(path, (1, 1))

    assert await source.discover() is first


@pytest.mark.parametrize("text", ["backends: [10.0.0.", "[10.0.0.2:80, {addr", "", "no", "[7]"])
async def test_a_bad_version_leaves_the_last_good_one(path: Path, text: str) -> None:
    """A half-written or wrong file is a failure once, and the next version is taken."""
    source = FileDiscovery(path, options=fast())
    async with watching(source) as watch:
        await watch.shows(["10.0.0.1:80"])
        replace(path, text)
        await watch.until(lambda: watch.failures, "a failure")
        assert str(path) in str(source.last_error)
        assert source.answer is watch.answers[0]
        replace(path, "[10.0.0.2:80]\n")
        await watch.shows(["10.0.0.2:80"])
        assert source.last_error is None

    assert watch.failures == 1


async def test_a_file_that_is_being_written_is_waited_for(path: Path) -> None:
    """A list that is cut short may look complete, so a file must rest before it is read."""
    pieces = iter(["- 10.0.0.2:80\n", "- 10.0.0.3:80\n", "- 10.0.0.4:80\n"])
    time = FakeTime()

    async def sleep(seconds: float) -> None:
        # Every time that the source waits, another line is written.
        with path.open("a") as file:
            file.write(next(pieces, ""))
        await time.sleep(seconds)

    source = FileDiscovery(path, options=SourceOptions(clock=time, sleep=sleep))
    await source.discover()
    write(path, "- 10.0.0.1:80\n")
    found = await source.discover()

    assert len(found.backends) == 4


async def test_a_file_that_never_rests(path: Path) -> None:
    """A file that changes all the time is a failure, not a wait without end."""
    time = FakeTime()

    async def sleep(seconds: float) -> None:
        replace(path, f"[10.0.0.1:{1 + int(time.now * 4) % 9999}]")
        await time.sleep(seconds)

    source = FileDiscovery(path, options=SourceOptions(clock=time, sleep=sleep))
    await source.discover()
    replace(path, "[10.0.0.2:80]")
    with pytest.raises(Error, match="does not rest"):
        await source.discover()


async def test_a_missing_file(tmp_path: Path) -> None:
    """A file that is not there yet is a failure until it is."""
    path = tmp_path / "later.yaml"
    source = FileDiscovery(path, options=fast())
    with pytest.raises(Error, match=r"FileReadError .* No such file"):
        await source.discover()
    async with watching(source) as watch:
        write(path, "[10.0.0.1:80]")
        await watch.shows(["10.0.0.1:80"])
        path.unlink()
        await watch.until(lambda: watch.failures, "a failure")
        write(path, "[10.0.0.1:80, 10.0.0.2:80]")
        await watch.shows(["10.0.0.1:80", "10.0.0.2:80"])


async def test_what_is_no_file(tmp_path: Path) -> None:
    """A pipe or a folder in its place is refused, without waiting for a writer."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Error, match="is no regular file"):
        await FileDiscovery(tmp_path / "pipe").discover()
    with pytest.raises(Error, match=r"is no regular file|Is a directory"):
        await FileDiscovery(tmp_path).discover()
    with pytest.raises(Error, match="cannot be read"):
        await FileDiscovery("a\0b").discover()


async def test_a_file_that_is_too_long(path: Path) -> None:
    """The size is bounded."""
    write(path, "#" * 2000)
    source = FileDiscovery(path, options=SourceOptions(max_bytes=1000))
    with pytest.raises(Error, match="longer than 1000 bytes"):
        await source.discover()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_permissions(path: Path) -> None:
    """A file that becomes readable is read, although its content has not changed."""
    path.chmod(0)  # noqa: ASYNC240  # a look
    source = FileDiscovery(path)
    with pytest.raises(Error, match="Permission denied"):
        await source.discover()
    path.chmod(0o600)  # noqa: ASYNC240

    assert addresses(await source.discover()) == ["10.0.0.1:80"]


async def test_a_smaller_list_is_believed_in_the_end(path: Path) -> None:
    """A list that has lost most of its backends is refused first, and believed if it stays."""
    write(path, "[10.0.0.1:80, 10.0.0.2:80, 10.0.0.3:80, 10.0.0.4:80]")
    time = FakeTime()
    options = SourceOptions(clock=time, sleep=time.sleep, max_loss=0.5, loss_patience=30)
    source = FileDiscovery(path, options=options)
    await source.discover()
    replace(path, "[10.0.0.1:80]")
    with pytest.raises(Error, match="1 usable backends, 4 before; believed if it stays so"):
        await source.discover()
    time.advance(31)

    assert addresses(await source.discover()) == ["10.0.0.1:80"]


async def test_ending_a_watch(path: Path) -> None:
    """A watch that is closed leaves nothing behind; another one begins with what there is."""
    source = FileDiscovery(path, options=fast())
    for _ in range(2):
        async with watching(source) as watch:
            await eventually(lambda: watch.answers, "an answer")


def test_misuse() -> None:
    """What cannot be meant is refused at once."""
    with pytest.raises(ValueError, match="settle must not be negative"):
        FileDiscovery("x", settle=-1)
