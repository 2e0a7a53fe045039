"""Streams that the library is not told of, because all they carry is a request without a body.

Theory of operation. Most streams of a server are over with one HEADERS that arrives and a head and a
body that leave. The library makes three objects for such a stream and takes it through a dozen steps of
its state machines, which is half of what a small request costs. All that there is to know of it is how
much it may send, and that is kept in the stream of this package. Should anything else happen to it (a
frame of the peer that names it, SETTINGS, which concern all streams, or a reset), the library is told
first, and goes on as if it had seen the stream from its beginning. The same holds for those that have
ended, as long as the library would remember them.

What the library checks of such a HEADERS is checked here: that the number is odd and has risen, and
whatever its decoder finds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from pingora_core.protocols.http.v2._frames import SETTINGS

if TYPE_CHECKING:
    from h2.connection import H2Connection
    from h2.stream import H2Stream, StreamInputs

    from pingora_core.protocols.http.v2._field_rules import Fields
    from pingora_core.protocols.http.v2._lean_streams import LeanHeads

    class _Stream(Protocol):
        id: int
        window: int | None
        is_answered: bool


__all__ = ["UnseenStreams"]

_END_STREAM: Final = 0x01
_PRIORITY: Final = 0x20
_PRIORITY_SIZE: Final = 5
_NUMBER: Final = 0x7FFFFFFF
# Streams of the library among which are ended ones that it has not put away.
_SWEEP: Final = 256


class UnseenStreams:
    """Those of one connection of a server.

    Args:
        engine: The library's connection.
        make: The class of its streams.
        heads: Decodes header blocks.
        inputs: What happens to streams, by the library's names.
        remembered: Ended streams of which it is known that they have ended.

    Attributes:
        initial_window: Bytes that a new stream may send.
    """

    __slots__ = (
        "_ended",
        "_engine",
        "_heads",
        "_inputs",
        "_make",
        "_open",
        "_remembered",
        "_sweep_at",
        "initial_window",
    )

    def __init__(
        self,
        engine: H2Connection,
        make: type[H2Stream],
        heads: LeanHeads,
        inputs: type[StreamInputs],
        *,
        remembered: int,
    ) -> None:
        self._engine = engine
        self._make = make
        self._heads = heads
        self._inputs = inputs
        self._remembered = remembered
        self._open: dict[int, _Stream] = {}
        # As a dict because the order is that in which they ended.
        self._ended: dict[int, None] = {}
        self._sweep_at = _SWEEP
        self.initial_window: int = engine.remote_settings.initial_window_size

    def take_head(self, stream_id: int, block: bytes, flags: int) -> Fields | None:
        """Read a HEADERS, if it opens a stream and ends it. HOT.

        Args:
            stream_id: Its number.
            block: The payload, which has no padding and is all of the header block.
            flags: The frame's.

        Returns:
            The fields; None when the frame is one that the library must judge.

        Raises:
            ProtocolError: The library's: the block is malformed or too large.
        """
        engine = self._engine
        # The first one opens the library's connection, and is left to it.
        if (
            not flags & _END_STREAM
            or not stream_id & 1
            or not 0 < engine.highest_inbound_stream_id < stream_id
        ):
            return None
        if flags & _PRIORITY:
            if (
                len(block) < _PRIORITY_SIZE
                or int.from_bytes(block[:4], "big") & _NUMBER == stream_id
            ):
                return None
            block = block[_PRIORITY_SIZE:]
        fields = self._heads.decode(block)
        engine.highest_inbound_stream_id = stream_id
        return fields

    def begin(self, stream: _Stream) -> None:
        """Keep a stream to this side.

        Args:
            stream: Whose head `take_head` has read.
        """
        stream.window = self.initial_window
        self._open[stream.id] = stream

    def end(self, stream: _Stream) -> None:
        """Note that all of a stream has been sent.

        Args:
            stream: Which.
        """
        stream.window = None
        del self._open[stream.id]
        ended = self._ended
        ended[stream.id] = None
        if len(ended) > self._remembered:
            del ended[next(iter(ended))]

    def before(self, kind: int, stream_id: int) -> None:
        """Prepare the library for a frame that it is going to see.

        Args:
            kind: Type of the frame.
            stream_id: Which stream it names.
        """
        if stream_id in self._open:
            self.tell(self._open[stream_id])
        elif stream_id in self._ended:
            del self._ended[stream_id]
            self._add(stream_id, 0, is_answered=True, is_ended=True)
        elif kind == SETTINGS:
            for stream in list(self._open.values()):
                self.tell(stream)

    def tell(self, stream: _Stream) -> None:
        """Let the library keep a stream from now on.

        Args:
            stream: One that has begun and not ended.
        """
        window = stream.window
        if window is None:
            return
        stream.window = None
        del self._open[stream.id]
        self._add(stream.id, window, is_answered=stream.is_answered, is_ended=False)

    def _add(self, stream_id: int, window: int, *, is_answered: bool, is_ended: bool) -> None:
        engine = self._engine
        if len(engine.streams) >= self._sweep_at:
            # Asking for their number makes the library put away those that have ended.
            self._sweep_at = _SWEEP + 2 * engine.open_inbound_streams
        stream = self._make(
            stream_id,
            config=engine.config,
            inbound_window_size=engine.local_settings.initial_window_size,
            outbound_window_size=window,
        )
        stream.max_outbound_frame_size = engine.max_outbound_frame_size
        inputs = self._inputs
        steps = [inputs.RECV_HEADERS, inputs.RECV_END_STREAM]
        if is_answered:
            steps.append(inputs.SEND_HEADERS)
        if is_ended:
            steps.append(inputs.SEND_END_STREAM)
        for step in steps:
            stream.state_machine.process_input(step)
        engine.streams[stream_id] = stream
