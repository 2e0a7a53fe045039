"""Backends from a file that is watched.

Theory of operation. The file is looked at in intervals; looking reads no content. One that looks
different is read once it has looked the same for a while, so that a file that is being written in
place is not read halfway. What it says replaces the set as a whole, or, if anything in it is
wrong, not at all: then that version of the file has failed once, and the next one is waited for.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import PurePath
from typing import TYPE_CHECKING, Final, NoReturn

from pingora_error import Error, ErrorType
from pingora_load_balancing.discovery._document import parse_document
from pingora_load_balancing.discovery._files import Stamp, read_stamp, take_snapshot
from pingora_load_balancing.discovery.interfaces import Discovered
from pingora_load_balancing.discovery.source import Source

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from pingora_load_balancing.discovery._document import Format
    from pingora_load_balancing.discovery.source import SourceOptions

__all__ = ["FileDiscovery"]

# As often the file may change under our eyes before we give up for now.
_MAX_LOOKS: Final = 10
# Equal to that of no file, so that the next look is a change.
_NONE_YET: Final = Stamp(-1, -1, -1, -1, -1)


class FileDiscovery(Source):
    """Backends from a YAML or JSON file.

    The file is a list, or a mapping with the list under ``backends``. Each backend is the text of
    an address, or a mapping of ``address`` and, if wanted, ``weight`` (1; 0 drains), ``enabled``
    and ``metadata``. Replace the file by renaming another one over it; a file that is written in
    place is read once it rests.

    Args:
        path: The file; links are followed.
        form: ``yaml`` or ``json``; None to go by the name, which is JSON if it ends in ``.json``.
        interval: Seconds from one look at the file to the next.
        settle: Seconds for which a changed file must rest before it is read.
        metadata_type: A dataclass, msgspec structure or other type that the metadata of each
            backend is converted to; None to keep it as it is.
        options: Which answers are believed, and who hears of failures.

    Raises:
        ValueError: If a time is not positive.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        form: Format | None = None,
        interval: float = 1.0,
        settle: float = 0.25,
        metadata_type: type | None = None,
        options: SourceOptions | None = None,
    ) -> None:
        super().__init__(interval=interval, options=options)
        if not settle >= 0:
            msg = f"settle must not be negative: {settle}"
            raise ValueError(msg)
        self._path = os.fspath(path)
        self._form: Format = form or ("json" if PurePath(path).suffix == ".json" else "yaml")
        self._settle = settle
        self._metadata_type = metadata_type
        # The version that was looked at last (None: there was none), and what became of it.
        self._stamp: Stamp | None = _NONE_YET
        self._outcome: Discovered | Error | None = None
        self._data: bytes | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._path}>"

    async def _ask(self) -> Discovered:
        if self._outcome is None or await self._has_changed():
            try:
                self._outcome = await self._look()
            except Error as error:
                self._outcome = error
                raise
        if isinstance(self._outcome, Error):
            # Each one who asks gets an error of its own.
            raise self._outcome.more_context("not changed since")
        return self._outcome

    async def _answers(self) -> AsyncGenerator[Discovered, None]:
        # A version that has failed is not read again.
        while isinstance(self._outcome, Error) and not await self._has_changed():
            await self.options.sleep(self._pause())
        yield await self._ask()
        while True:
            await self.options.sleep(self._pause())
            if await self._has_changed():
                yield await self._ask()

    async def _has_changed(self) -> bool:
        return await self._current_stamp() != self._stamp

    async def _current_stamp(self) -> Stamp | None:
        return await asyncio.to_thread(read_stamp, self._path)

    async def _look(self) -> Discovered:
        # The first time it is read at once, for want of anything better.
        stamp = await self._current_stamp()
        looks = 0
        while self._outcome is not None and self._settle:
            await self.options.sleep(self._settle)
            before, stamp = stamp, await self._current_stamp()
            if stamp == before:
                break
            looks += 1
            if looks == _MAX_LOOKS:
                self._stamp = _NONE_YET
                self._refuse("does not rest")
        self._stamp = stamp
        return await asyncio.to_thread(self._read)

    def _read(self) -> Discovered:
        try:
            snapshot = take_snapshot(self._path, self.options.max_bytes)
            if snapshot.stamp != self._stamp:
                self._stamp = _NONE_YET
                self._refuse("has changed again")
        except Error:
            self._data = None
            raise
        if snapshot.data == self._data and isinstance(self._outcome, Discovered):
            # Touched, or replaced by a copy.
            return self._outcome
        try:
            found = parse_document(
                snapshot.data,
                self._form,
                max_backends=self.options.max_backends,
                metadata_type=self._metadata_type,
            )
        except Error as error:
            raise error.more_context(f"file {self._path}") from error
        self._data = snapshot.data
        return found

    def _refuse(self, why: str) -> NoReturn:
        raise Error.internal(ErrorType.FILE_READ_ERROR, f"file {self._path} {why}")
