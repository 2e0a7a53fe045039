"""Counting the tokens of a language model's answer as it passes, without holding it up.

Theory of operation. What speaks the protocol of OpenAI's chat completions tells what it has counted
in a ``usage`` object: within a JSON answer, or in the last events of a stream if the client asked for
that. It is read when it comes. Where there is none, because nobody asked or the answer broke off,
there is an estimate: an event of a stream carries about a token, and a token has about four bytes.

Source: OpenAI API reference, "Create chat completion" and "Create a model response".
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta, MsgspecError, Struct
from msgspec.json import decode

from pingora_core.protocols.http.event_stream import EventStreamParser

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["TokenCount"]

_BYTES_PER_TOKEN: Final = 4


class _Usage(Struct):
    total_tokens: Annotated[int, Meta(ge=0, le=1 << 31)]


class _Response(Struct):
    usage: _Usage | None = None


class _Told(Struct):
    # An answer or an event of one; the newer protocol wraps the answer in its last event.
    usage: _Usage | None = None
    response: _Response | None = None


class TokenCount:
    r"""Counts the tokens of one question and its answer; make it when the question has come.

    What is fed may be JSON or a stream of events, in pieces of any size, but not compressed: ask
    the upstream for ``Accept-Encoding: identity``, or there is only the estimate.

    Args:
        limit: Bytes of a JSON answer, or of one event, that are kept to look for the usage; what
            is longer is estimated.
        clock: Seconds that only grow.

    Attributes:
        told: What the upstream has counted, the question included; None as long as it has not
            told.
        time_to_first_token: Seconds until the answer began: with the first byte of JSON, or with the
            first event of a stream; None before.

    Examples:
        >>> count = TokenCount()
        >>> count.feed(b'data: {"choices": []}\n\ndata: {"usage": {"total_')
        >>> count.total(asked=400)
        101
        >>> count.feed(b'tokens": 42}}\n\n')
        >>> count.total(asked=400)
        42
    """

    __slots__ = (
        "_body",
        "_clock",
        "_events",
        "_limit",
        "_received",
        "_seen",
        "_started",
        "time_to_first_token",
        "told",
    )

    def __init__(
        self, limit: int = 1 << 20, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.told: int | None = None
        self.time_to_first_token: float | None = None
        self._limit = limit
        self._clock = clock
        self._started = clock()
        self._events: EventStreamParser | None = None
        self._body = bytearray()
        self._received = 0  # bytes
        self._seen = 0  # events

    def feed(self, piece: bytes | None, *, end: bool = False) -> None:
        """Look at a piece of the answer.

        Args:
            piece: The piece; None for nothing.
            end: Whether the answer ends with it.
        """
        if piece:
            self._received += len(piece)
            if self._events is None and not self._body:
                # JSON is an object; no line of a stream of events begins like one.
                piece = piece.lstrip()
                if piece and not piece.startswith(b"{"):
                    self._events = EventStreamParser(self._limit)
        if self._events is not None:
            for event in self._events.feed(piece or b""):
                self._begun()
                self._seen += 1
                self._look(event.data)
            return
        if self._received:
            self._begun()
        if piece and self._received <= self._limit:
            self._body += piece
        if end:
            if self._received <= self._limit:
                self._look(bytes(self._body))
            self._body.clear()

    def _begun(self) -> None:
        if self.time_to_first_token is None:
            self.time_to_first_token = self._clock() - self._started

    def _look(self, text: bytes) -> None:
        if b'"usage"' not in text:
            return
        with suppress(MsgspecError):
            told = decode(text, type=_Told)
            usage = told.usage or (told.response and told.response.usage)
            if usage:
                self.told = usage.total_tokens

    def total(self, asked: int = 0) -> int:
        """Tell how many tokens it was, for question and answer together.

        Args:
            asked: Bytes of the question, for the estimate.

        Returns:
            What the upstream has told, else an estimate.
        """
        if self.told is not None:
            return self.told
        answered = self._seen * _BYTES_PER_TOKEN or self._received
        return (asked + answered) // _BYTES_PER_TOKEN
