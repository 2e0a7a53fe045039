"""ASGI applications (Starlette, FastAPI, Django ...) as a service, or for some routes of a proxy."""

from pingora_proxy.asgi._errors import ClientDisconnectedError
from pingora_proxy.asgi.application import AsgiApplication
from pingora_proxy.asgi.metrics import asgi_source
from pingora_proxy.asgi.options import AsgiOptions
from pingora_proxy.asgi.service import AsgiServer, asgi_service
from pingora_proxy.asgi.types import ASGIApp, Message, Receive, Scope, Send

__all__ = [
    "ASGIApp",
    "AsgiApplication",
    "AsgiOptions",
    "AsgiServer",
    "ClientDisconnectedError",
    "Message",
    "Receive",
    "Scope",
    "Send",
    "asgi_service",
    "asgi_source",
]
