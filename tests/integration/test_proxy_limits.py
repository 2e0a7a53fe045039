"""Limits on request bodies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pingora_core import Http1Options, HttpServerOptions
from pingora_error import HTTPStatus
from tests.support.proxy import RigProxy, RunningProxy

if TYPE_CHECKING:
    from tests.support.origin import Origin

_LIMIT = 1000
_OPTIONS = HttpServerOptions(http1=Http1Options(max_body_size=_LIMIT))


async def test_a_body_at_the_limit_passes(origin: Origin) -> None:
    """The limit itself is allowed."""
    app = RigProxy(origin)
    async with RunningProxy(app, server_options=_OPTIONS) as proxy, await proxy.connect() as client:
        response = await client.request("POST", "/echo", body=b"x" * _LIMIT)

    assert (response.status, len(response.body)) == (200, _LIMIT)


async def test_an_announced_body_beyond_the_limit_is_413(origin: Origin) -> None:
    """It is refused by its head; nothing is forwarded, and the connection ends."""
    app = RigProxy(origin)
    async with RunningProxy(app, server_options=_OPTIONS) as proxy, await proxy.connect() as client:
        response = await client.request("POST", "/echo", body=b"x" * (_LIMIT + 1))
        assert await client.is_closed_by_server()

    assert response.status == 413
    assert origin.requests == []
    assert app.endings[0].error is not None
    assert app.endings[0].error.root_etype == HTTPStatus(413)


@pytest.mark.parametrize("piece", [100, 2000])
async def test_a_chunked_body_beyond_the_limit_is_413(origin: Origin, piece: int) -> None:
    """It is refused once it is too long; the upstream never sees the end of it."""
    app = RigProxy(origin)
    async with RunningProxy(app, server_options=_OPTIONS) as proxy, await proxy.connect() as client:
        response = await client.request("POST", "/echo", chunks=[b"x" * piece] * (4000 // piece))
        assert await client.is_closed_by_server()

    assert response.status == 413
    assert not any(request.complete for request in origin.requests)
