"""The bridge from gRPC-web, which browsers speak, to gRPC over HTTP/2.

Theory of operation: the messages are framed alike in both. gRPC-web differs in three things. Its
content type is ``application/grpc-web``. Its trailers are the last frame of the body: a byte
0x80, the length, and lines ``name:value``, because browsers show no trailers to their scripts.
And its ``-text`` variant is base64, in which padding may come anywhere: whoever flushes ends a
run of base64 and begins another. So ``GrpcWebCtx`` changes the heads, turns trailers into a
frame, and codes text, piece by piece; a piece is never held back but for the one to three
characters that do not make a byte yet.

CORS is the application's business: a preflight request has no content type and passes untouched.

Source: gRPC's PROTOCOL-WEB.md; pingora-core/src/protocols/http/bridge/grpc_web.rs.
"""

from __future__ import annotations

import re
from binascii import Error as BinasciiError, a2b_base64, b2a_base64
from enum import Enum
from typing import TYPE_CHECKING, Final

from pingora_core.protocols.http.bridge.grpc import grpc_status_of_http
from pingora_error import Custom, Error, ErrorSource
from pingora_http.names import CONTENT_LENGTH, CONTENT_TYPE, TRAILER

if TYPE_CHECKING:
    from pingora_http import HeaderMap, RequestHeader, ResponseHeader

__all__ = ["INVALID_GRPC_WEB", "Base64StreamDecoder", "GrpcWebCtx", "GrpcWebState"]

INVALID_GRPC_WEB: Final = Custom("InvalidGrpcWeb")

_ACCEPT: Final = b"accept"
_GRPC_STATUS: Final = b"grpc-status"
# ``application/grpc-web`` or ``-text``, the suffix (``+proto``), the parameters.
_WEB_TYPE: Final = re.compile(
    rb"application/grpc-web(-text(?:-base64)?)?(\+[^;, \t]*)?[ \t]*(;.*)?", re.IGNORECASE
)
_GRPC_TYPE: Final = re.compile(rb"application/grpc(\+[^;, \t]*)?[ \t]*(;.*)?", re.IGNORECASE)
_TRAILER_FRAME: Final = b"\x80"


class GrpcWebState(Enum):
    """How far the bridge is; Pingora's states.

    Attributes:
        DISABLED: Nothing is, or was, to be done.
        INIT: Waits for a gRPC-web request.
        UPGRADE: Has one; waits for the gRPC response.
        TRAILERS: Has the head of it; waits for the end.
        DONE: The trailers have been given.
    """

    DISABLED = "disabled"
    INIT = "init"
    UPGRADE = "upgrade"
    TRAILERS = "trailers"
    DONE = "done"


class GrpcWebCtx:
    """The bridge for one exchange: feed it everything in order, send on what it gives back.

    The response needs no length (HTTP/1 clients get it chunked); the upstream must be spoken to
    over HTTP/2, or its trailers are lost.

    Attributes:
        state: How far it is. ``DISABLED`` until ``init`` was called.
    """

    __slots__ = ("_decoder", "_missing_status", "_text", "state")

    def __init__(self) -> None:
        self.state: GrpcWebState = GrpcWebState.DISABLED
        self._decoder: Base64StreamDecoder | None = None
        self._missing_status: bytes | None = None
        self._text = False

    def init(self) -> None:
        """Switch the bridge on, before the request head."""
        self.state = GrpcWebState.INIT

    # ---------------------------------------------------------------- request

    def request_header_filter(self, request: RequestHeader) -> None:
        """Turn the head of a gRPC-web request into one of gRPC; leave others alone.

        Args:
            request: The head; changed in place.
        """
        if self.state is not GrpcWebState.INIT:
            return
        match = _WEB_TYPE.fullmatch(request.get_raw(CONTENT_TYPE) or b"")
        if match is None:
            return
        text, suffix, parameters = match.groups(b"")
        request.insert_header(b"Content-Type", _media_type(b"", suffix, parameters))
        # Servers take a request without it for one that came through a proxy which drops
        # trailers, and refuse.
        request.insert_header(b"TE", b"trailers")
        # gRPC ends its requests with a DATA frame, even if it is empty.
        request.set_send_end_stream(False)
        if text:
            self._decoder = Base64StreamDecoder()
            request.remove_headers((CONTENT_LENGTH,))
        self._text = _wants_text(request, default=bool(text))
        self.state = GrpcWebState.UPGRADE

    def request_body_start(self) -> None:
        """Begin the request body anew, for another attempt."""
        if self._decoder is not None:
            self._decoder = Base64StreamDecoder()

    def request_body_filter(self, body: bytes | None, *, end: bool) -> bytes | None:
        """Decode a piece of the request body, if it is base64.

        Args:
            body: The piece; None when it only tells the end.
            end: Whether the body ends with it.

        Returns:
            What is sent instead; None for nothing yet.

        Raises:
            Error: ``INVALID_GRPC_WEB``, from downstream, if it is no base64.
        """
        decoder = self._decoder
        if decoder is None:
            return body
        decoded = decoder.feed(body) if body else b""
        if end:
            decoder.feed_eof()
        return decoded or None

    # --------------------------------------------------------------- response

    def response_header_filter(self, response: ResponseHeader) -> None:
        """Turn a gRPC response head into one of gRPC-web; leave others alone.

        A response that has its ``grpc-status`` in the head already ("trailers-only") keeps it
        there, as gRPC-web wants it.

        Args:
            response: The head, informational or final; changed in place. A second final head,
                such as that of an error after the first could not be sent, replaces the first.
        """
        if self.state not in {GrpcWebState.UPGRADE, GrpcWebState.TRAILERS}:
            return
        status = response.status
        if status < 200:
            return
        match = _GRPC_TYPE.fullmatch(response.get_raw(CONTENT_TYPE) or b"")
        if match is None:
            # The client maps the HTTP status by the same table (http-grpc-status-mapping.md).
            self.state = GrpcWebState.DISABLED
            return
        suffix, parameters = match.groups(b"")
        variant = b"-web-text" if self._text else b"-web"
        response.insert_header(b"Content-Type", _media_type(variant, suffix, parameters))
        response.remove_headers((CONTENT_LENGTH, TRAILER))
        if response.get_raw(_GRPC_STATUS) is None:
            self._missing_status = b"grpc-status:%d\r\n" % grpc_status_of_http(status)
        else:
            self._missing_status = None
        self.state = GrpcWebState.TRAILERS

    def response_body_filter(self, body: bytes | None) -> bytes | None:
        """Encode a piece of the response body, if the client wants base64.

        Args:
            body: The piece, or None.

        Returns:
            What is sent instead.
        """
        if body and self._text and self.state is GrpcWebState.TRAILERS:
            return b2a_base64(body, newline=False)
        return body

    def response_trailer_filter(self, trailers: HeaderMap) -> bytes | None:
        """Turn the trailers into the last frame of the body.

        Args:
            trailers: The fields; taken out if they are in the frame.

        Returns:
            The frame; None when this is no bridged response.
        """
        if self.state is not GrpcWebState.TRAILERS:
            self.state = GrpcWebState.DISABLED
            return None
        block = b"".join(b"%b:%b\r\n" % (name.lower(), value) for name, value in trailers.raw_items)
        if self._missing_status is not None and trailers.get_raw(_GRPC_STATUS) is None:
            block += self._missing_status
        trailers.remove_headers(tuple(trailers.keys_lower()))
        return self._frame(block)

    def response_done_filter(self) -> bytes | None:
        """End a response that had no trailers.

        Returns:
            A frame with the status that stands for a missing one, so that no client takes a
            truncated stream for a complete one; None if the head had a status.
        """
        if self.state is not GrpcWebState.TRAILERS:
            return None
        if self._missing_status is None:
            self.state = GrpcWebState.DONE
            return None
        return self._frame(self._missing_status)

    def _frame(self, block: bytes) -> bytes:
        self.state = GrpcWebState.DONE
        frame = _TRAILER_FRAME + len(block).to_bytes(4) + block
        return b2a_base64(frame, newline=False) if self._text else frame


def _media_type(variant: bytes, suffix: bytes, parameters: bytes) -> bytes:
    return b"application/grpc" + variant + suffix.lower() + parameters


def _wants_text(request: RequestHeader, *, default: bool) -> bool:
    """Tell whether the response is to be base64: ``Accept`` says so, or else the request is.

    Args:
        request: The head.
        default: Whether the request is.

    Returns:
        Whether it is.
    """
    for value in request.get_all_raw(_ACCEPT):
        for media_range in value.split(b","):
            match = _WEB_TYPE.fullmatch(media_range.strip(b" \t"))
            if match is not None:
                return match[1] is not None
    return default


# --------------------------------------------------------------------------- base64

# Whole groups of four characters; padding may end any of them.
_GROUPS: Final = re.compile(rb"(?:[A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{2}(?:==|[A-Za-z0-9+/]=))*+")
_NOT_BASE64: Final = "the body is not base64"
_SEGMENT: Final = re.compile(rb"[^=]+={0,2}")


class Base64StreamDecoder:
    """Decodes base64 that arrives in pieces and may be padded anywhere between groups of four.

    It keeps up to three characters; what it gives is always shorter than what it got.
    """

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """Decode a piece.

        Args:
            data: Characters.

        Returns:
            The bytes that are complete.

        Raises:
            Error: ``INVALID_GRPC_WEB``, from downstream, if there is a character that is not of
                base64, such as white space, or padding in the wrong place.
        """
        data = self._rest + data
        whole = len(data) & ~3
        self._rest = data[whole:]
        groups = data[:whole]
        if b"=" in groups[:-2]:
            # Rare: several padded runs one after another.
            if _GROUPS.fullmatch(groups) is None:
                raise Error(INVALID_GRPC_WEB, _NOT_BASE64, source=ErrorSource.DOWNSTREAM)
            return b"".join(map(a2b_base64, _SEGMENT.findall(groups)))
        try:
            return a2b_base64(groups, strict_mode=True)
        except BinasciiError:
            raise Error(INVALID_GRPC_WEB, _NOT_BASE64, source=ErrorSource.DOWNSTREAM) from None

    def feed_eof(self) -> None:
        """Tell the end.

        Raises:
            Error: ``INVALID_GRPC_WEB``, from downstream, if a group is not complete.
        """
        if self._rest:
            raise Error(
                INVALID_GRPC_WEB,
                "the base64 of the body ends within a group",
                source=ErrorSource.DOWNSTREAM,
            )
