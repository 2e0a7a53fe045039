"""The gRPC-web module among other modules."""

from __future__ import annotations

import pytest

from pingora_core.modules import (
    GrpcWebBridge,
    GrpcWebBridgeBuilder,
    HttpModules,
    ResponseCompressionBuilder,
)
from pingora_core.protocols.http.bridge import GrpcWebState
from pingora_http import HeaderMap, RequestHeader, ResponseHeader


def _modules(builder: GrpcWebBridgeBuilder) -> HttpModules:
    modules = HttpModules()
    modules.add_module(builder)
    return modules


def _request(content_type: str = "application/grpc-web-text") -> RequestHeader:
    return RequestHeader(
        "POST", "/s/m", headers=[("Content-Type", content_type), ("Accept-Encoding", "gzip")]
    )


def _response() -> ResponseHeader:
    return ResponseHeader(200, headers=[("Content-Type", "application/grpc+proto")])


async def test_an_exchange_is_bridged() -> None:
    """Heads, bodies and trailers pass the bridge; compression keeps its hands off."""
    modules = _modules(GrpcWebBridgeBuilder(enabled=True))
    modules.add_module(ResponseCompressionBuilder.enable(5))
    ctx = modules.build_ctx()
    request = _request()
    response = _response()
    trailers = HeaderMap([("grpc-status", "0")])

    await ctx.request_header_filter(request)
    ctx.request_body_start()
    body = await ctx.request_body_filter(b"QUJD", True)
    await ctx.response_header_filter(response, False)
    answer = ctx.response_body_filter(b"abc", False)
    last = ctx.response_trailer_filter(trailers)

    assert request.get("content-type") == "application/grpc"
    assert body == b"ABC"
    assert response.get("content-type") == "application/grpc-web-text+proto"
    assert response.get("content-encoding") is None
    assert answer == b"YWJj"
    assert last == b"gAAAAA9ncnBjLXN0YXR1czowDQo="
    assert len(trailers) == 0
    assert ctx[GrpcWebBridge].state is GrpcWebState.DONE


@pytest.mark.parametrize("told_by_trailers", [False, True])
async def test_a_response_without_trailers_gets_a_status(told_by_trailers: bool) -> None:
    """Whichever way the end is told, the status that is missing is given once."""
    ctx = _modules(GrpcWebBridgeBuilder(enabled=True)).build_ctx()
    await ctx.request_header_filter(_request("application/grpc-web"))
    await ctx.response_header_filter(_response(), False)

    last = ctx.response_trailer_filter(None) if told_by_trailers else ctx.response_done_filter()

    assert last == b"\x80\x00\x00\x00\x0fgrpc-status:2\r\n"
    assert ctx.response_done_filter() is None


async def test_the_bridge_is_off_until_somebody_asks() -> None:
    """As in Pingora a filter switches it on; until then a request costs nothing."""
    modules = _modules(GrpcWebBridgeBuilder())
    idle = modules.build_ctx()
    asked = modules.build_ctx()
    assert not idle.has_modules

    asked[GrpcWebBridge].init()
    request = _request()
    await asked.request_header_filter(request)

    assert request.get("content-type") == "application/grpc"
