"""HTTP request and response headers that keep case, order and raw bytes."""

from pingora_http._version import __version__

__all__ = ["__version__"]
