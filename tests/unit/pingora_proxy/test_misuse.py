"""What newcomers get wrong in a class of callbacks is said in words that name the callback."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from pingora_core import HttpPeer, ServerConf
from pingora_error import Error
from pingora_proxy import ProxyHttp, http_proxy
from pingora_proxy.testing import RunningProxy, ScriptedOrigin

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from pingora_http import RequestHeader
    from pingora_proxy import Session


class Plain(ProxyHttp[None]):
    """Nothing wrong."""

    def __init__(self, upstream: str = "127.0.0.1:1") -> None:
        self.upstream = upstream

    def new_ctx(self) -> None:
        return None

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        return HttpPeer(self.upstream)


def told(app: ProxyHttp[None], caplog: pytest.LogCaptureFixture) -> list[str]:
    with caplog.at_level(logging.WARNING, logger="pingora_proxy"):
        http_proxy(ServerConf(), app)
    return [record.getMessage() for record in caplog.records]


def test_a_misspelt_callback_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    """It would never be called, and nothing would fail."""

    class Misspelt(Plain):
        async def upstream_requets_filter(
            self, session: Session, upstream_request: RequestHeader, ctx: None
        ) -> None: ...

    [line] = told(Misspelt(), caplog)
    assert "Misspelt.upstream_requets_filter is no callback" in line
    assert "is upstream_request_filter meant?" in line


def test_helpers_are_no_misspelt_callbacks(caplog: pytest.LogCaptureFixture) -> None:
    """Private ones, those beside the callback that they help, and words of their own."""

    class Helped(Plain):
        async def request_filter(self, session: Session, ctx: None) -> bool:
            return False

        def _response_filters(self) -> None: ...

        def request_filters(self) -> None: ...

        def peer_of(self) -> None: ...

    assert told(Helped(), caplog) == []


def test_a_plain_function_where_one_is_awaited_is_noticed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Unless it says that it returns something to wait for."""

    class Sync(Plain):
        def request_filter(self, session: Session, ctx: None) -> bool:  # type: ignore[override]
            return False

        def early_request_filter(self, session: Session, ctx: None) -> Awaitable[None]:  # type: ignore[override]
            return super().early_request_filter(session, ctx)

    [line] = told(Sync(), caplog)
    assert line == "Sync.request_filter is awaited by the framework: write async def"


def test_a_coroutine_function_where_none_is_awaited_is_refused() -> None:
    """The context would be a coroutine."""

    class Async(Plain):
        async def new_ctx(self) -> None:  # type: ignore[override]
            return None

    with pytest.raises(TypeError, match=r"Async\.new_ctx is called without await: write def"):
        http_proxy(ServerConf(), Async())


def test_a_callback_with_other_arguments_is_refused() -> None:
    """Before the first request, with what it is called with."""

    class Short(Plain):
        async def upstream_request_filter(  # type: ignore[override]
            self, session: Session, ctx: None
        ) -> None: ...

    with pytest.raises(TypeError) as caught:
        http_proxy(ServerConf(), Short())
    assert str(caught.value).startswith("Short.upstream_request_filter: too many positional")
    assert str(caught.value).endswith("called with (self, session, upstream_request, ctx)")


@pytest.mark.parametrize("wrong", [None, "127.0.0.1:80"])
async def test_what_is_no_peer_is_said_so(wrong: object, caplog: pytest.LogCaptureFixture) -> None:
    """A forgotten return, or an address in the place of a peer."""

    class Peerless(Plain):
        async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
            return wrong  # type: ignore[return-value]

    async with RunningProxy(Peerless()) as proxy:
        assert (await proxy.get("/")).status == 500
    assert f"Peerless.upstream_peer returned {wrong!r}: return an HttpPeer" in caplog.text


async def test_silence_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """A forgotten await answers nothing; who means it is not told at each request."""

    class Silent(Plain):
        async def request_filter(self, session: Session, ctx: None) -> bool:
            return session.req_header.path == "/silent"

    async with ScriptedOrigin() as origin, RunningProxy(Silent(origin.address)) as proxy:
        for _ in range(2):
            with pytest.raises(Error):
                await proxy.get("/silent")
        assert (await proxy.get("/")).status == 404
    assert caplog.text.count("Silent.request_filter returned True") == 1
