"""Servers, services, listeners, connectors and HTTP sessions for programmable network services."""

from pingora_core._version import __version__

__all__ = ["__version__"]
