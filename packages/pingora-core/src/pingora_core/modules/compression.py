"""The module that compresses, or decompresses, what a client is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pingora_core.modules.module import HttpModule, HttpModuleBuilder
from pingora_core.protocols.http.compression import MAX_DECODED_CHUNK, ResponseCompressionCtx

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from pingora_core.modules.module import Downstream
    from pingora_core.protocols.http.compression import Algorithm, CompressionInfo
    from pingora_http import HeaderMap, RequestHeader, ResponseHeader

__all__ = ["ResponseCompression", "ResponseCompressionBuilder"]

# Pingora's i16::MIN / 2: after modules that do not care, with room for some that come later.
_ORDER: Final = -16384


class ResponseCompression(HttpModule):
    """Compresses the response; the settings can be changed until its head is there.

    Args:
        ctx: The state and the settings of this request's compression.

    Source: pingora-core/src/modules/http/compression.rs.
    """

    __slots__ = ("_ctx",)

    def __init__(self, ctx: ResponseCompressionCtx) -> None:
        self._ctx = ctx

    @property
    def is_enabled(self) -> bool:
        """Whether something may happen; after the response head, whether it does."""
        return self._ctx.is_enabled

    def adjust_level(self, level: int, algorithm: Algorithm | None = None) -> None:
        """Change the compression level; as ``ResponseCompressionCtx.adjust_level``.

        Args:
            level: 0 does not compress; 1 is the fastest.
            algorithm: The one to change; None for all.
        """
        self._ctx.adjust_level(level, algorithm)

    def adjust_decompression(self, *, enabled: bool, algorithm: Algorithm | None = None) -> None:
        """Change whether codings that the client does not take are undone.

        Args:
            enabled: Whether they are.
            algorithm: The one to change; None for all.
        """
        self._ctx.adjust_decompression(enabled=enabled, algorithm=algorithm)

    def adjust_preserve_etag(self, *, enabled: bool, algorithm: Algorithm | None = None) -> None:
        """Change whether a strong ETag survives.

        Args:
            enabled: Whether it does.
            algorithm: The one to change; None for all.
        """
        self._ctx.adjust_preserve_etag(enabled=enabled, algorithm=algorithm)

    def get_info(self) -> CompressionInfo | None:
        """Tell what was done to the body so far.

        Returns:
            The numbers; None when the body is left alone.
        """
        return self._ctx.get_info()

    async def request_header_filter(self, request: RequestHeader) -> None:
        """Take note of what the client accepts; see ``HttpModule``."""
        self._ctx.request_filter(request)

    async def response_header_filter(self, response: ResponseHeader, end: bool) -> None:  # noqa: FBT001 - Pingora's signature
        """Decide, and change the head accordingly; see ``HttpModule``."""
        self._ctx.response_header_filter(response, end)

    def response_body_filter(self, body: bytes | None, end: bool) -> bytes | None:  # noqa: FBT001 - Pingora's signature
        """Convert a piece of the body; see ``HttpModule``.

        Args:
            body: The piece; None when it only tells the end.
            end: Whether the message ends with it.

        Returns:
            What is sent instead; None for nothing yet.
        """
        return self._ctx.response_body_filter(body, end)

    def response_trailer_filter(self, trailers: HeaderMap | None) -> bytes | None:
        """Give the end of the body before the trailers; see ``HttpModule``.

        Args:
            trailers: Not changed.

        Returns:
            The last bytes of the body, if it was changed and they were not given yet.
        """
        _ = trailers
        return self._ctx.response_body_filter(None, end=True)

    def response_done_filter(self) -> bytes | None:
        """Give the end of the body; see ``HttpModule``.

        Returns:
            The last bytes of the body, if it was changed and they were not given yet.
        """
        return self._ctx.response_body_filter(None, end=True)


class ResponseCompressionBuilder(HttpModuleBuilder):
    """Adds compression to a service.

    With level 0 and without decompression the module is made only for requests whose
    application asks for it: ``session.downstream_modules_ctx[ResponseCompression]``.

    Args:
        level: Compression level for every algorithm; 0 does not compress.
        decompress: Whether to undo codings that the client does not take.
        preserve_etag: Whether a strong ETag stays as it is.
        preference: The codings to favour among those that the client likes equally well.
        max_decoded: Bytes that one piece of a body may expand to.
    """

    module_type = ResponseCompression
    order = _ORDER

    def __init__(
        self,
        level: int = 0,
        *,
        decompress: bool = False,
        preserve_etag: bool = False,
        preference: Sequence[Algorithm] = (),
        max_decoded: int = MAX_DECODED_CHUNK,
    ) -> None:
        self._level = level
        self._decompress = decompress
        self._preserve_etag = preserve_etag
        self._preference = tuple(preference)
        self._max_decoded = max_decoded
        self.lazy: bool = level == 0 and not decompress
        self._new_ctx()  # A bad value shows now, not in a request.

    @classmethod
    def enable(cls, level: int) -> Self:
        """Compress with the same level everywhere, as Pingora's constructor of this name.

        Args:
            level: Compression level for every algorithm; 0 leaves it to each request.

        Returns:
            The builder.
        """
        return cls(level)

    def init(self) -> ResponseCompression:
        """Make the module of one request; see ``HttpModuleBuilder``.

        Returns:
            The module.
        """
        return ResponseCompression(self._new_ctx())

    def init_for(self, downstream: Downstream) -> ResponseCompression:
        """Make the module of one request; see ``HttpModuleBuilder``.

        Args:
            downstream: Its request head says what the client accepts.

        Returns:
            The module.
        """
        ctx = self._new_ctx()
        if self.lazy:
            ctx.request_filter(downstream.req_header)
        return ResponseCompression(ctx)

    def _new_ctx(self) -> ResponseCompressionCtx:
        return ResponseCompressionCtx(
            self._level,
            decompress=self._decompress,
            preserve_etag=self._preserve_etag,
            preference=self._preference,
            max_decoded=self._max_decoded,
        )
