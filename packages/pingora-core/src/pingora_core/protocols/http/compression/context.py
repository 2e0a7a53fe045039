"""The compression of one response: settings, decision, header, body.

Rules of this file: once a header has promised a coding the body has it or the response fails;
uncoded bytes under ``Content-Encoding: gzip`` would be a lie that caches keep. Therefore the
encoder is made before the header is touched, and only a failure to make it is passed over.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from pingora_core.protocols.http.compression.codec import (
    MAX_DECODED_CHUNK,
    Algorithm,
    new_decoder,
    new_encoder,
)
from pingora_core.protocols.http.compression.negotiate import (
    Compress,
    Decompress,
    accept_encoding_of,
    decide_action,
    forbids_transform,
    is_compressible,
)
from pingora_error import Error
from pingora_http import Version

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pingora_core.protocols.http.compression.codec import Coder
    from pingora_core.protocols.http.compression.negotiate import AcceptEncoding
    from pingora_http import RequestHeader, ResponseHeader

__all__ = ["CompressionInfo", "ResponseCompressionCtx"]

_LOGGER: Final = logging.getLogger(__name__)

# They speak of the bytes that were replaced: length, ranges, digests (RFC 9530 and older).
_STALE_FIELDS: Final = frozenset(
    {
        b"content-length",
        b"accept-ranges",
        b"content-digest",
        b"content-md5",
        b"digest",
        b"repr-digest",
    }
)


class CompressionInfo(NamedTuple):
    """What one (de)compression did so far.

    Attributes:
        name: The coding: ``gzip``, ``br`` or ``zstd``.
        bytes_in: Bytes taken.
        bytes_out: Bytes given.
        seconds: Time spent in the library, seconds.
    """

    name: str
    bytes_in: int
    bytes_out: int
    seconds: float


class ResponseCompressionCtx:
    """Compresses or decompresses the responses to one request.

    Feed it the request head, then each response head, then the pieces of the body. A new final
    head begins anew, as after a retry or for an error page; what was under way is dropped.

    Nothing is done to a response that has no body, is partial (206) or informational, answers
    HEAD or CONNECT, or for which either side said ``no-transform``. ``Vary: Accept-Encoding`` is
    added whenever another ``Accept-Encoding`` could have had another result.

    Args:
        level: Compression level for every algorithm; 0 does not compress.
        decompress: Whether to undo codings that the client does not take.
        preserve_etag: Whether a strong ETag stays as it is. Otherwise it is weakened, because
            the bytes are no longer those that it stands for.
        preference: The codings to favour among those that the client likes equally well, best
            first. Browsers like all of theirs equally well and list gzip first.
        max_decoded: Bytes that one piece of a body may expand to.
        clock: The clock for ``get_info``, seconds.

    Raises:
        ValueError: If the level is negative or the limit below 1.

    Source: pingora-core/src/protocols/http/compression/mod.rs.
    """

    __slots__ = (
        "_accept",
        "_bytes_in",
        "_bytes_out",
        "_clock",
        "_coder",
        "_decided",
        "_decompress",
        "_is_bodiless",
        "_levels",
        "_max_decoded",
        "_no_transform",
        "_preference",
        "_preserve_etag",
        "_running",
        "_seconds",
    )

    def __init__(
        self,
        level: int = 0,
        *,
        decompress: bool = False,
        preserve_etag: bool = False,
        preference: Sequence[Algorithm] = (),
        max_decoded: int = MAX_DECODED_CHUNK,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if max_decoded < 1:
            msg = f"the limit for decoded bytes is at least 1, not {max_decoded}"
            raise ValueError(msg)
        self._levels: dict[Algorithm, int] = {}
        self._decompress: set[Algorithm] = set()
        self._preserve_etag: set[Algorithm] = set()
        self._preference = preference
        self._max_decoded = max_decoded
        self._clock = clock
        self._accept: AcceptEncoding | None = None
        self._no_transform = False
        self._is_bodiless = False
        self._coder: Coder | None = None
        self._running: Compress | Decompress | None = None
        self._decided = False
        self._bytes_in = 0
        self._bytes_out = 0
        self._seconds = 0.0
        if level:
            self.adjust_level(level)
        if decompress:
            self.adjust_decompression(enabled=True)
        if preserve_etag:
            self.adjust_preserve_etag(enabled=True)

    # --------------------------------------------------------------- settings

    @property
    def is_enabled(self) -> bool:
        """Whether something may happen; after the response head, whether it does."""
        if self._decided:
            return self._running is not None
        return bool(self._levels or self._decompress)

    def adjust_level(self, level: int, algorithm: Algorithm | None = None) -> None:
        """Change the compression level.

        Args:
            level: 0 does not compress; 1 is the fastest; above an algorithm's best means that.
            algorithm: The one to change; None for all.

        Raises:
            ValueError: If the level is negative.
        """
        if level < 0:
            msg = f"a compression level is not negative: {level}"
            raise ValueError(msg)
        self._check_undecided()
        for each in Algorithm if algorithm is None else (algorithm,):
            if level:
                self._levels[each] = level
            else:
                self._levels.pop(each, None)

    def adjust_decompression(self, *, enabled: bool, algorithm: Algorithm | None = None) -> None:
        """Change whether codings that the client does not take are undone.

        Args:
            enabled: Whether they are.
            algorithm: The one to change; None for all.
        """
        self._check_undecided()
        chosen = Algorithm if algorithm is None else (algorithm,)
        if enabled:
            self._decompress.update(chosen)
        else:
            self._decompress.difference_update(chosen)

    def adjust_preserve_etag(self, *, enabled: bool, algorithm: Algorithm | None = None) -> None:
        """Change whether a strong ETag survives.

        Args:
            enabled: Whether it does.
            algorithm: The one to change; None for all.
        """
        self._check_undecided()
        chosen = Algorithm if algorithm is None else (algorithm,)
        if enabled:
            self._preserve_etag.update(chosen)
        else:
            self._preserve_etag.difference_update(chosen)

    def get_info(self) -> CompressionInfo | None:
        """Tell what was done to the body so far.

        Returns:
            The numbers; None when the body is left alone or no response came yet.
        """
        if self._running is None:
            return None
        name = self._running.algorithm.value
        return CompressionInfo(name, self._bytes_in, self._bytes_out, self._seconds)

    # ---------------------------------------------------------------- filters

    def request_filter(self, request: RequestHeader) -> None:
        """Take note of what the client accepts.

        Args:
            request: The request head, as the client sent it; not kept.
        """
        self._accept = accept_encoding_of(request)
        self._no_transform = forbids_transform(request)
        self._is_bodiless = request.raw_method in {b"HEAD", b"CONNECT"}

    def response_header_filter(self, response: ResponseHeader, end: bool) -> None:  # noqa: FBT001 - Pingora's signature
        """Decide, and change the head accordingly.

        Args:
            response: The head; changed when the body will be.
            end: Whether the message ends with the head.
        """
        status = response.status
        if status < 200 and status != 101:
            return
        self._begin()
        if (
            end
            or self._is_bodiless
            or status in {101, 204, 205, 206, 304}
            or not (self._levels or self._decompress)
            or self._no_transform
            or forbids_transform(response)
        ):
            return
        if self._depends_on_client(response):
            _add_vary(response)
        action = decide_action(response, self._accept, self._levels, self._preference)
        if _LOGGER.isEnabledFor(logging.DEBUG):
            _LOGGER.debug("compression: %s", action)
        if action is None:
            return
        coder = self._make_coder(action)
        if coder is not None:
            self._coder = coder
            self._running = action
            _adjust_header(response, action)
            if action.algorithm not in self._preserve_etag:
                _weaken_etag(response)

    def response_body_filter(self, data: bytes | None, end: bool) -> bytes | None:  # noqa: FBT001 - Pingora's signature
        """Convert a piece of the body.

        Args:
            data: The piece; None when it only tells the end.
            end: Whether the body ends with it. Once told, nothing more comes out.

        Returns:
            The piece to send instead: ``data`` itself when the body is left alone, None when
            there is nothing to send yet.

        Raises:
            Error: ``COMPRESSION_ERROR``: from upstream when what came cannot be decoded or
                expands beyond the limit, internal when an encoder fails. The response must not
                be completed.
        """
        coder = self._coder
        if coder is None:
            return data
        piece = data or b""
        started = self._clock()
        try:
            out = coder.process(piece, end=end)
        except Error as error:
            if isinstance(self._running, Decompress):
                error.as_up()
            else:
                error.as_in()
            raise
        self._seconds += self._clock() - started
        self._bytes_in += len(piece)
        self._bytes_out += len(out)
        if end:
            self._coder = None
        return out or None

    # --------------------------------------------------------------- the rest

    def _begin(self) -> None:
        self._decided = True
        self._coder = None
        self._running = None
        self._bytes_in = self._bytes_out = 0
        self._seconds = 0.0

    def _check_undecided(self) -> None:
        if self._decided:
            msg = "the response head has been sent through; compression is decided"
            raise RuntimeError(msg)

    def _depends_on_client(self, response: ResponseHeader) -> bool:
        codings = response.get_all("content-encoding")
        if not codings:
            return bool(self._levels) and is_compressible(response)
        return len(codings) == 1 and Algorithm.from_coding(codings[0]) in self._decompress

    def _make_coder(self, action: Compress | Decompress) -> Coder | None:
        algorithm = action.algorithm
        if isinstance(action, Decompress):
            if algorithm not in self._decompress:
                return None
            return new_decoder(algorithm, max_output=self._max_decoded)
        try:
            return new_encoder(algorithm, self._levels[algorithm])
        except Error as error:
            _LOGGER.warning("response is sent without compression: %s", error)
            return None


def _adjust_header(response: ResponseHeader, action: Compress | Decompress) -> None:
    if isinstance(action, Compress):
        response.insert_header("Content-Encoding", action.algorithm.value)
    else:
        response.remove_header("content-encoding")
    response.remove_headers(_STALE_FIELDS)
    # The length is not known ahead. In HTTP/2 and 3 the field would be malformed.
    if response.version < Version.HTTP_20:
        response.insert_header("Transfer-Encoding", "chunked")


def _weaken_etag(response: ResponseHeader) -> None:
    etag = response.get("etag")
    if etag is None or etag.startswith("W/"):
        return
    if etag.startswith('"'):
        response.insert_header("ETag", f"W/{etag}")
    else:
        # No valid tag, so no weak one can be made of it; nginx does the same.
        response.remove_header("etag")


def _add_vary(response: ResponseHeader) -> None:
    for value in response.get_all("vary"):
        for name in value.lower().split(","):
            if name.strip() in {"*", "accept-encoding"}:
                return
    response.append_header("Vary", "Accept-Encoding")
