"""Service discovery and selection of upstream backends."""

from pingora_load_balancing._version import __version__

__all__ = ["__version__"]
