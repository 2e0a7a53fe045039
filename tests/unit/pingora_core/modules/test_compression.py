"""The compression module among other modules."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pytest

from pingora_core.modules import (
    HttpModule,
    HttpModuleBuilder,
    HttpModules,
    ResponseCompression,
    ResponseCompressionBuilder,
)
from pingora_core.protocols.address import InetAddress
from pingora_core.protocols.digest import Digest
from pingora_core.protocols.http.compression import Algorithm
from pingora_http import HeaderMap, RequestHeader, ResponseHeader

if TYPE_CHECKING:
    from pingora_core.modules import (
        HttpModuleCtx,
    )

_TEXT = b"a line that repeats itself\n" * 100


class _Client:
    """A client's side whose request takes gzip."""

    def __init__(self, accept: str = "gzip") -> None:
        self.req_header = RequestHeader("GET", "/", headers=[("Accept-Encoding", accept)])
        self.client_addr = InetAddress("192.0.2.1", 1234)
        self.digest = Digest()


class _Appends(HttpModule):
    """Adds a last line to each body."""

    def response_trailer_filter(self, trailers: HeaderMap | None) -> bytes | None:
        return b"the end"

    def response_done_filter(self) -> bytes | None:
        return b"the end"


class _AppendsBuilder(HttpModuleBuilder):
    module_type = _Appends

    def init(self) -> _Appends:
        return _Appends()


def _ctx(client: _Client, *builders: HttpModuleBuilder) -> HttpModuleCtx:
    modules = HttpModules()
    for builder in builders:
        modules.add_module(builder)
    return modules.build_ctx(client)


def _response() -> ResponseHeader:
    return ResponseHeader(200, headers=[("Content-Type", "text/plain")])


async def test_an_enabled_module_compresses() -> None:
    """With a level every fitting response is compressed."""
    client = _Client()
    ctx = _ctx(client, ResponseCompressionBuilder.enable(5))
    response = _response()

    await ctx.request_header_filter(client.req_header)
    await ctx.response_header_filter(response, False)
    first = ctx.response_body_filter(_TEXT, False)
    last = ctx.response_done_filter()

    assert response.get("content-encoding") == "gzip"
    assert first is not None
    assert last is not None
    assert gzip.decompress(first + last) == _TEXT
    info = ctx[ResponseCompression].get_info()
    assert info is not None
    assert info.bytes_in == len(_TEXT)


async def test_trailers_end_the_body_first() -> None:
    """The end of the coded body comes before the trailers, once."""
    client = _Client()
    ctx = _ctx(client, ResponseCompressionBuilder.enable(5))
    await ctx.request_header_filter(client.req_header)
    await ctx.response_header_filter(_response(), False)
    first = ctx.response_body_filter(_TEXT, False) or b""

    last = ctx.response_trailer_filter(HeaderMap()) or b""

    assert gzip.decompress(first + last) == _TEXT
    assert ctx.response_done_filter() is None


@pytest.mark.parametrize("with_trailers", [False, True])
async def test_what_another_module_appends_is_compressed(with_trailers: bool) -> None:
    """Compression runs late, so the last words of others are part of the coded body."""
    client = _Client()
    ctx = _ctx(client, ResponseCompressionBuilder.enable(5), _AppendsBuilder())
    await ctx.request_header_filter(client.req_header)
    await ctx.response_header_filter(_response(), False)
    first = ctx.response_body_filter(_TEXT, False) or b""

    if with_trailers:
        last = ctx.response_trailer_filter(HeaderMap()) or b""
    else:
        last = ctx.response_done_filter() or b""

    assert gzip.decompress(first + last) == _TEXT + b"the end"


def test_a_module_that_is_off_is_not_even_made() -> None:
    """Level 0 costs a request nothing until it asks."""
    assert not _ctx(_Client(), ResponseCompressionBuilder()).has_modules
    assert not _ctx(_Client(), ResponseCompressionBuilder.enable(0)).has_modules
    assert _ctx(_Client(), ResponseCompressionBuilder(1)).has_modules
    assert _ctx(_Client(), ResponseCompressionBuilder(decompress=True)).has_modules


@pytest.mark.parametrize("before_the_request_filters", [True, False])
async def test_one_request_may_switch_it_on(before_the_request_filters: bool) -> None:
    """A filter can ask for compression before or after the modules saw the request."""
    client = _Client()
    ctx = _ctx(client, ResponseCompressionBuilder.enable(0))
    response = _response()

    if before_the_request_filters:
        ctx[ResponseCompression].adjust_level(5)
    await ctx.request_header_filter(client.req_header)
    if not before_the_request_filters:
        ctx[ResponseCompression].adjust_level(5)
    await ctx.response_header_filter(response, False)

    assert ctx[ResponseCompression].is_enabled
    assert response.get("content-encoding") == "gzip"


async def test_without_a_client_the_request_filter_tells() -> None:
    """A context made for nobody in particular works from the request head it is given."""
    modules = HttpModules()
    modules.add_module(ResponseCompressionBuilder())
    ctx = modules.build_ctx()
    ctx[ResponseCompression].adjust_level(5)
    response = _response()

    await ctx.request_header_filter(_Client().req_header)
    await ctx.response_header_filter(response, False)

    assert response.get("content-encoding") == "gzip"


async def test_each_setting_can_be_changed_for_a_request() -> None:
    """The module hands the settings on."""
    client = _Client("br")
    ctx = _ctx(client, ResponseCompressionBuilder(5, preference=[Algorithm.ZSTD]))
    module = ctx[ResponseCompression]
    module.adjust_level(0, Algorithm.BROTLI)
    module.adjust_decompression(enabled=True, algorithm=Algorithm.GZIP)
    module.adjust_preserve_etag(enabled=True)
    await ctx.request_header_filter(client.req_header)
    response = _response()
    response.insert_header("Content-Encoding", "gzip")
    response.insert_header("ETag", '"v1"')

    await ctx.response_header_filter(response, False)

    assert "content-encoding" not in response
    assert response.get("etag") == '"v1"'
    assert ctx.response_body_filter(gzip.compress(_TEXT), True) == _TEXT


def test_a_bad_level_shows_when_the_service_is_built() -> None:
    """Not in the first request."""
    with pytest.raises(ValueError, match="not negative"):
        ResponseCompressionBuilder.enable(-1)


def test_the_limit_for_decoding_is_handed_on() -> None:
    """A builder's limits are those of its modules."""
    with pytest.raises(ValueError, match="at least 1"):
        ResponseCompressionBuilder(decompress=True, max_decoded=0)
