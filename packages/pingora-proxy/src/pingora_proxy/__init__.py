"""Programmable HTTP proxies: write a class with a few callbacks."""

from pingora_proxy._version import __version__
from pingora_proxy.hooks import ProxyHttp
from pingora_proxy.outcome import BodyFilterResult, Delayed, FailToProxy, Hedge, HedgePlan
from pingora_proxy.proxy import HttpProxy
from pingora_proxy.service import http_proxy, http_proxy_service
from pingora_proxy.session import Session
from pingora_proxy.status import default_status
from pingora_proxy.subrequest import Subrequest, SubrequestCtx, SubrequestSpawner

__all__ = [
    "BodyFilterResult",
    "Delayed",
    "FailToProxy",
    "Hedge",
    "HedgePlan",
    "HttpProxy",
    "ProxyHttp",
    "Session",
    "Subrequest",
    "SubrequestCtx",
    "SubrequestSpawner",
    "__version__",
    "default_status",
    "http_proxy",
    "http_proxy_service",
]
