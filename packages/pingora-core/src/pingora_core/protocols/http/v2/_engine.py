"""The seam to the library that keeps the state of streams and encodes frames.

Both libraries have the interface of `h2`; whatever this package uses of it is used through the
object made here. Their validation and normalisation of header fields is off: `headers` does both
once, for either.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final, cast

from pingora_core.conf import CONFIG_ERROR
from pingora_core.protocols.http.v2._frames import PREFACE, ErrorCode, settings_frame
from pingora_core.protocols.http.v2._hpack import BlockDecoder, BlockEncoder
from pingora_core.protocols.http.v2._lean_streams import LeanHeads, lean_stream
from pingora_core.protocols.http.v2._mended import mend_resets, mend_streams
from pingora_core.protocols.http.v2._unseen import UnseenStreams
from pingora_error import Error, ErrorSource

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from h2.connection import H2Connection
    from h2.events import Event

    from pingora_core.protocols.http.v2.options import EngineName, Http2Options

__all__ = ["Library", "load_library", "start_engine"]

# RFC 9113 section 6.5.2, RFC 8441 section 3.
_ENABLE_PUSH: Final = 2
_MAX_CONCURRENT_STREAMS: Final = 3
_INITIAL_WINDOW_SIZE: Final = 4
_MAX_FRAME_SIZE: Final = 5
_MAX_HEADER_LIST_SIZE: Final = 6
_ENABLE_CONNECT_PROTOCOL: Final = 8

_PANIC_MODULE: Final = "pyo3_runtime"
_UNLIMITED: Final = 2**31 - 1
# Closed streams that the library remembers; its own limit of 65,536 costs megabytes.
_MAX_CLOSED_STREAMS: Final = 512


@dataclass(frozen=True, slots=True)
class Library:
    """One of the libraries.

    Attributes:
        name: Of the library.
        make: Makes an engine from the role, True for a client, and the settings in force.
        kinds: Its event classes and their names, which both libraries share.
        protocol_error: What it raises about the peer, and about its user.
        sensitive: Makes a field that must not enter a compression table.
        unseen: Makes, for an engine of a server, what keeps plain streams from it; None where that
            is not done.
        heads: Makes what hands it header sections without frames; None where that is not done.
    """

    name: str
    make: Callable[[bool, dict[int, int]], H2Connection]
    kinds: dict[type, str]
    protocol_error: type[Exception]
    sensitive: Callable[[bytes, bytes], tuple[bytes, bytes]]
    unseen: Callable[[H2Connection], UnseenStreams] | None
    heads: Callable[[H2Connection], LeanHeads] | None


@cache
def load_library(name: EngineName) -> Library:
    """Import a library.

    Args:
        name: Which.

    Returns:
        What is used of it.

    Raises:
        Error: ``CONFIG_ERROR`` if it is not installed.
    """
    try:
        connection = importlib.import_module(f"{name}.connection")
        config = importlib.import_module(f"{name}.config")
        events = importlib.import_module(f"{name}.events")
        settings = importlib.import_module(f"{name}.settings")
        exceptions = importlib.import_module(f"{name}.exceptions")
        hpack = importlib.import_module("hpack" if name == "h2" else f"{name}.hpack")
    except ImportError as error:
        advice = f"http2_engine {name!r} is not installed: pip install 'pingora-core[{name}]'"
        raise Error(CONFIG_ERROR, advice, source=ErrorSource.INTERNAL, cause=error) from error

    class Engine(connection.H2Connection):  # type: ignore[misc, name-defined]  # chosen at run time
        MAX_CLOSED_STREAMS = _MAX_CLOSED_STREAMS

    streams = importlib.import_module(f"{name}.stream")
    # The other library has its own kind of fields, and is fast enough.
    base = lean_stream(streams, exceptions) if name == "h2" else streams.H2Stream
    server_stream = mend_streams(Engine, base, streams, exceptions)
    mend_resets(Engine)

    if name == "jh2":
        _contain_panics(Engine, connection.H2Connection, exceptions)

    def make(client_side: bool, in_force: dict[int, int]) -> H2Connection:  # noqa: FBT001 - named by the field
        chosen = config.H2Configuration(
            client_side=client_side,
            header_encoding=None,
            validate_inbound_headers=False,
            validate_outbound_headers=False,
            normalize_inbound_headers=False,
            normalize_outbound_headers=False,
        )
        engine = Engine(config=chosen)
        engine.local_settings = settings.Settings(client=client_side, initial_values=in_force)
        if name == "h2":
            # The other library's are no Python.
            engine.encoder = BlockEncoder()
            engine.decoder = BlockDecoder()
        return cast("H2Connection", engine)

    def unseen(engine: H2Connection) -> UnseenStreams:
        return UnseenStreams(
            engine,
            server_stream,
            heads(engine),
            streams.StreamInputs,
            remembered=_MAX_CLOSED_STREAMS,
        )

    def heads(engine: H2Connection) -> LeanHeads:
        closed = connection.ConnectionState.CLOSED
        return LeanHeads(engine, streams, exceptions, closed=closed)

    kinds = {
        value: key
        for key, value in vars(events).items()
        if isinstance(value, type) and issubclass(value, events.Event)
    }
    return Library(
        name,
        make,
        kinds,
        exceptions.H2Error,
        hpack.NeverIndexedHeaderTuple,
        unseen if name == "h2" else None,
        heads if name == "h2" else None,
    )


def _contain_panics(engine: type, base: type[H2Connection], exceptions: ModuleType) -> None:
    def receive_data(self: H2Connection, data: bytes) -> list[Event]:
        # Its decoder panics on header blocks that are cut off (5.0.15), and what comes of that is
        # no Exception.
        try:
            received: list[Event] = base.receive_data(self, data)
        except BaseException as error:
            if type(error).__module__ != _PANIC_MODULE:
                raise
            self.close_connection(ErrorCode.COMPRESSION_ERROR)
            raise exceptions.ProtocolError("malformed header block") from None
        return received

    engine.receive_data = receive_data  # type: ignore[attr-defined]  # derived from ``base``


def start_engine(
    library: Library, options: Http2Options, *, client_side: bool
) -> tuple[H2Connection, bytes]:
    """Make an engine that has sent its first SETTINGS.

    Args:
        library: Which.
        options: What to announce.
        client_side: Which role.

    Returns:
        The engine, and what must be sent first.
    """
    announced = [
        (_INITIAL_WINDOW_SIZE, options.stream_window),
        (_MAX_FRAME_SIZE, options.max_frame_size),
        (_MAX_HEADER_LIST_SIZE, options.max_header_list_size),
    ]
    if client_side:
        announced.insert(0, (_ENABLE_PUSH, 0))
    else:
        announced.insert(0, (_MAX_CONCURRENT_STREAMS, options.max_concurrent_streams))
        if options.extended_connect:
            announced.append((_ENABLE_CONNECT_PROTOCOL, 1))
    # The number of streams is enforced by the connection: the library would end all of them.
    in_force = {**dict(announced), _MAX_CONCURRENT_STREAMS: _UNLIMITED}
    engine = library.make(client_side, in_force)
    engine.max_inbound_frame_size = options.max_frame_size
    engine.decoder.max_header_list_size = options.max_header_list_size
    engine.initiate_connection()
    engine.clear_outbound_data_buffer()
    more = options.total_window - 65535
    if more > 0:
        engine.increment_flow_control_window(more)
    preface = (PREFACE if client_side else b"") + settings_frame(announced)
    return engine, preface + engine.data_to_send()
