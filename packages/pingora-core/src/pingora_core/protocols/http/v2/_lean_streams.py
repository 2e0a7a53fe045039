"""Header sections of streams that the library knows, sent and received with fewer steps.

The library looks at each field five times and builds objects for the frame, its flags and what was
validated. Nothing of that is used here: fields are judged elsewhere (`headers`), and what counts is the
state of the stream, which is still the library's, and the block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from hpack import HPACKError, OversizedHeaderListError

from pingora_core.protocols.http.v2._frames import HEADERS, ErrorCode, headers_frames

if TYPE_CHECKING:
    from types import ModuleType

    from h2.connection import ConnectionState, H2Connection
    from h2.events import Event

    from pingora_core.protocols.http.v2._field_rules import Fields

    class _Encoder(Protocol):
        def encode(self, headers: Fields) -> bytes: ...


__all__ = ["LeanHeads", "lean_stream"]


class LeanHeads:
    """Hands the header sections that arrive to the library's streams.

    Args:
        engine: The library's connection.
        streams: The library's module of that name.
        exceptions: The library's module of that name.
        closed: The state of a connection that has ended.
    """

    __slots__ = ("_closed", "_engine", "_exceptions", "_states")

    def __init__(
        self,
        engine: H2Connection,
        streams: ModuleType,
        exceptions: ModuleType,
        *,
        closed: ConnectionState,
    ) -> None:
        self._closed = closed
        self._engine = engine
        self._exceptions = exceptions
        # Those in which a header section may come; in the others it is more than one error.
        self._states = (streams.StreamState.OPEN, streams.StreamState.HALF_CLOSED_LOCAL)

    def decode(self, block: bytes) -> Fields:
        """Decode a header block.

        Args:
            block: All of it.

        Returns:
            Its fields.

        Raises:
            ProtocolError: The library's, as it raises it; its GOAWAY is ready.
        """
        engine = self._engine
        try:
            fields: Fields = engine.decoder.decode(block, raw=True)  # type: ignore[assignment]  # a list
        except OversizedHeaderListError as error:
            engine.close_connection(ErrorCode.ENHANCE_YOUR_CALM)
            raise self._exceptions.DenialOfServiceError(f"header block: {error}") from error
        except HPACKError as error:
            engine.close_connection(ErrorCode.PROTOCOL_ERROR)
            raise self._exceptions.ProtocolError(f"header block: {error}") from error
        return fields

    def take(self, stream_id: int, block: bytes, *, end: bool) -> list[Event] | None:
        """Let a stream have a header section.

        Args:
            stream_id: Which.
            block: The payload of a HEADERS that has no padding, no priority and all of the block.
            end: Whether the stream ends with it.

        Returns:
            The library's events; None when the frame is one that the library must judge.

        Raises:
            ProtocolError: The library's, as it raises it; its GOAWAY is ready.
        """
        engine = self._engine
        stream = engine.streams.get(stream_id)
        if (
            stream is None
            or stream.state_machine.state not in self._states
            or engine.state_machine.state is self._closed
        ):
            return None
        fields = self.decode(block)
        try:
            return stream.receive_headers(fields, end, None)[1]
        except self._exceptions.ProtocolError as error:
            engine.close_connection(error.error_code)
            raise


class _HeadersFrames:
    """Frames that are bytes already, as the libraries take what is to be sent.

    Args:
        stream_id: On which stream.
        data: The frames.

    Attributes:
        type: That of the first.
        stream_id: On which stream.
        body_len: 0; that they are not too large has been seen to.
    """

    __slots__ = ("_data", "stream_id")

    type = HEADERS
    body_len = 0

    def __init__(self, stream_id: int, data: bytes) -> None:
        self.stream_id = stream_id
        self._data = data

    def serialize(self) -> bytes:
        """Write them.

        Returns:
            The bytes.
        """
        return self._data


def lean_stream(streams: ModuleType, exceptions: ModuleType) -> type:
    """Derive from a library's streams.

    Args:
        streams: The library's module of that name.
        exceptions: The library's module of that name.

    Returns:
        The class.
    """
    inputs = streams.StreamInputs

    class LeanStream(streams.H2Stream):  # type: ignore[misc, name-defined]  # chosen at run time
        def send_headers(
            self,
            headers: Fields,
            encoder: _Encoder,
            end_stream: bool = False,  # noqa: FBT001, FBT002 - the library's signature
        ) -> list[_HeadersFrames]:
            # Its checks, in its order: encoding cannot be taken back.
            machine = self.state_machine
            if not machine.client and headers[0][0] == b":status" and headers[0][1][:1] == b"1":
                if end_stream:
                    raise exceptions.ProtocolError("an informational response that ends its stream")
                machine.process_input(inputs.SEND_INFORMATIONAL_HEADERS)
            else:
                machine.process_input(inputs.SEND_HEADERS)
            block = encoder.encode(headers)
            if end_stream:
                machine.process_input(inputs.SEND_END_STREAM)
            elif machine.trailers_sent:
                raise exceptions.ProtocolError("trailers that do not end their stream")
            size = self.max_outbound_frame_size
            frames = headers_frames(self.stream_id, block, size, end=end_stream)
            return [_HeadersFrames(self.stream_id, frames)]

    return LeanStream
