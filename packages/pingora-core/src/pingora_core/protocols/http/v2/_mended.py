"""Two judgements of the libraries about what a client receives, taken back.

- An informational head that arrives on a stream which this side has reset is a connection error to
  them (h2 4.4, jh2 5.0). It is an everyday race: the stream is cancelled while a 103 is on its way.
- A response whose Content-Length is not that of its content is a connection error to them, and so
  is a 304 that ends with an empty DATA frame, although its Content-Length is that of another
  response (RFC 9110 section 8.6). The session judges that, for its stream alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from h2.connection import AllowedStreamIDs
    from h2.stream import H2Stream

__all__ = ["mend_client_streams"]


def mend_client_streams(engine: type, streams: ModuleType, exceptions: ModuleType) -> None:
    """Let a class of engines make streams that judge less, when they are clients.

    Args:
        engine: A class of this package, derived from a library's.
        streams: The library's module of that name.
        exceptions: The library's module of that name.
    """
    resets = {streams.StreamClosedBy.SEND_RST_STREAM, streams.StreamClosedBy.RECV_RST_STREAM}
    original = engine._begin_new_stream  # type: ignore[attr-defined]  # noqa: SLF001 - no other way

    class ClientStream(streams.H2Stream):  # type: ignore[misc, name-defined]  # chosen at run time
        def receive_headers(
            self, headers: Sequence[tuple[bytes, bytes]], *arguments: object
        ) -> object:
            if self.closed_by in resets:
                raise exceptions.StreamClosedError(self.stream_id)
            return super().receive_headers(headers, *arguments)

        def _initialize_content_length(self, headers: object) -> None:
            pass

        def _track_content_length(self, length: int, end_stream: bool) -> None:  # noqa: FBT001
            pass

    def begin_new_stream(self: object, stream_id: int, allowed_ids: AllowedStreamIDs) -> H2Stream:
        stream: H2Stream = original(self, stream_id, allowed_ids)
        if stream.config.client_side:
            stream.__class__ = ClientStream
        return stream

    engine._begin_new_stream = begin_new_stream  # type: ignore[attr-defined]  # noqa: SLF001
