"""Which callbacks a user's class overrides, looked up once so that the others cost nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_proxy.hooks import ProxyHttp

if TYPE_CHECKING:
    from typing import TypeVar

    CTX = TypeVar("CTX")

__all__ = ["Overrides"]


class Overrides:
    """One flag for each optional callback; the names are the callbacks'.

    Args:
        app: The user's object.

    Attributes:
        acts_before_cache: Whether any callback runs before an upstream is chosen, besides
            ``request_cache_filter``.
        filters_body: Whether any callback sees pieces of the response body.
        filters_response: Whether any callback sees anything of a response.
    """

    _NAMES = (
        "adjust_upstream_modules",
        "allow_spawning_subrequest",
        "cache_hit_filter",
        "cache_key_callback",
        "cache_vary_filter",
        "cache_not_modified_filter",
        "connected_to_upstream",
        "early_request_filter",
        "fail_to_connect",
        "hedge_request",
        "is_purge",
        "logging",
        "on_connection_reuse",
        "persist_connection_context",
        "proxy_upstream_filter",
        "purge_response_filter",
        "range_header_filter",
        "request_body_filter",
        "request_cache_filter",
        "request_filter",
        "response_body_filter",
        "response_cache_filter",
        "response_filter",
        "response_trailer_filter",
        "upstream_request_filter",
        "upstream_response_body_filter",
        "upstream_response_filter",
        "upstream_response_trailer_filter",
    )

    __slots__ = (*_NAMES, "acts_before_cache", "filters_body", "filters_response")

    cache_hit_filter: bool
    cache_not_modified_filter: bool
    cache_vary_filter: bool
    cache_key_callback: bool
    is_purge: bool
    purge_response_filter: bool
    range_header_filter: bool
    request_cache_filter: bool
    connected_to_upstream: bool
    early_request_filter: bool
    fail_to_connect: bool
    filters_body: bool
    filters_response: bool
    hedge_request: bool
    acts_before_cache: bool
    adjust_upstream_modules: bool
    allow_spawning_subrequest: bool
    logging: bool
    on_connection_reuse: bool
    persist_connection_context: bool
    proxy_upstream_filter: bool
    request_body_filter: bool
    request_filter: bool
    response_body_filter: bool
    response_cache_filter: bool
    response_filter: bool
    response_trailer_filter: bool
    upstream_request_filter: bool
    upstream_response_body_filter: bool
    upstream_response_filter: bool
    upstream_response_trailer_filter: bool

    def __init__(self, app: ProxyHttp[CTX]) -> None:
        for name in self._NAMES:
            mine = getattr(app, name)
            default = getattr(ProxyHttp, name)
            setattr(self, name, getattr(mine, "__func__", mine) is not default)
        self.acts_before_cache = (
            self.on_connection_reuse
            or self.allow_spawning_subrequest
            or self.early_request_filter
            or self.request_filter
            or self.proxy_upstream_filter
        )
        self.filters_body = self.response_body_filter or self.upstream_response_body_filter
        self.filters_response = (
            self.filters_body
            or self.adjust_upstream_modules
            or self.upstream_response_filter
            or self.response_filter
            or self.upstream_response_trailer_filter
            or self.response_trailer_filter
        )
