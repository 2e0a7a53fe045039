"""Typed errors with a kind, a source and a retry decision, shared by all Pingora packages."""

from pingora_error._version import __version__

__all__ = ["__version__"]
