"""What the libraries do otherwise than RFC 9113 has it, put right.

Of either role:

- A message whose Content-Length is malformed, or is not that of its content, is a connection error
  to them, and so is a 304 that ends with an empty DATA frame, although its Content-Length is that
  of another response (RFC 9110 section 8.6). It is an error of the stream (RFC 9113 section 8.1.1):
  a server's connection (`_receive_side`) and a client's session judge it.
- A frame that arrives on a stream which has been reset already is answered with another RST_STREAM
  (h2 4.4, jh2 5.0). What is still on its way is to be ignored, and nothing may follow a RST_STREAM
  (section 5.1).

Of a client:

- An informational head that arrives on a stream which this side has reset is a connection error to
  them (h2 4.4, jh2 5.0). It is an everyday race: the stream is cancelled while a 103 is on its way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, cast

from pingora_core.protocols.http.v2._frames import RST_STREAM

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from h2.connection import AllowedStreamIDs
    from h2.stream import H2Stream

    class _Frame(Protocol):
        type: int
        stream_id: int


__all__ = ["mend_resets", "mend_streams"]

# Streams of a connection of which it is known that they were reset: the latest of them.
_MAX_RESETS: Final = 512


def mend_streams(
    engine: type, base: type, streams: ModuleType, exceptions: ModuleType
) -> type[H2Stream]:
    """Let a class of engines make streams that judge less.

    Args:
        engine: A class of this package, derived from a library's.
        base: The library's class of streams, or one derived from it.
        streams: The library's module of that name.
        exceptions: The library's module of that name.

    Returns:
        The class of a server's streams.
    """
    resets = {streams.StreamClosedBy.SEND_RST_STREAM, streams.StreamClosedBy.RECV_RST_STREAM}
    original = engine._begin_new_stream  # type: ignore[attr-defined]  # noqa: SLF001 - no other way

    class Stream(base):  # type: ignore[misc]  # chosen at run time
        def _initialize_content_length(self, headers: object) -> None:
            pass

        def _track_content_length(self, length: int, end_stream: bool) -> None:  # noqa: FBT001
            pass

    class ClientStream(Stream):
        def receive_headers(
            self, headers: Sequence[tuple[bytes, bytes]], *arguments: object
        ) -> object:
            if self.closed_by in resets:
                raise exceptions.StreamClosedError(self.stream_id)
            return super().receive_headers(headers, *arguments)

    def begin_new_stream(self: object, stream_id: int, allowed_ids: AllowedStreamIDs) -> H2Stream:
        stream: H2Stream = original(self, stream_id, allowed_ids)
        stream.__class__ = ClientStream if stream.config.client_side else Stream
        return stream

    engine._begin_new_stream = begin_new_stream  # type: ignore[attr-defined]  # noqa: SLF001
    return cast("type[H2Stream]", Stream)


def mend_resets(engine: type) -> None:
    """Let a class of engines reset each stream once.

    Args:
        engine: A class of this package, derived from a library's.
    """
    original = engine._prepare_for_sending  # type: ignore[attr-defined]  # noqa: SLF001 - no other way

    def prepare_for_sending(self: object, frames: Sequence[_Frame]) -> None:
        if frames and frames[-1].type == RST_STREAM:
            resets: dict[int, None] = self.__dict__.setdefault("reset_streams", {})
            stream_id = frames[-1].stream_id
            if stream_id in resets:
                frames = frames[:-1]
            else:
                resets[stream_id] = None
                if len(resets) > _MAX_RESETS:
                    del resets[next(iter(resets))]
        original(self, frames)

    engine._prepare_for_sending = prepare_for_sending  # type: ignore[attr-defined]  # noqa: SLF001
