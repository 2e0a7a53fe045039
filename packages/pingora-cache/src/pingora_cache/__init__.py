"""An HTTP cache as a library, usable without a server."""

from pingora_cache._version import __version__

__all__ = ["__version__"]
