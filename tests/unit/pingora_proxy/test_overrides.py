"""A callback that is not overridden is known before the first request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_core import HttpPeer
from pingora_proxy import ProxyHttp
from pingora_proxy._overrides import Overrides

if TYPE_CHECKING:
    from pingora_http import ResponseHeader
    from pingora_proxy import Session


class Plain(ProxyHttp[None]):
    """The two callbacks that must be there."""

    def new_ctx(self) -> None:
        return None

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        return HttpPeer("127.0.0.1:80")


class Filtering(Plain):
    """One more."""

    async def response_filter(
        self, session: Session, upstream_response: ResponseHeader, ctx: None
    ) -> None:
        upstream_response.insert_header("x", "1")


class Inheriting(Filtering):
    """None of its own."""


def test_nothing_is_overridden() -> None:
    """All flags are down, the collected ones too."""
    flags = Overrides(Plain())

    assert not any(getattr(flags, name) for name in Overrides.__slots__)


def test_an_inherited_override_counts() -> None:
    """What a base class overrides is overridden."""
    flags = Overrides(Inheriting())

    raised = {name for name in Overrides.__slots__ if getattr(flags, name)}
    assert raised == {"response_filter", "filters_response"}
