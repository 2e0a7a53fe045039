"""Programmable HTTP proxies: write a class with a few callbacks."""

from pingora_proxy._version import __version__

__all__ = ["__version__"]
