"""Rate estimation, in-flight counting and probabilistic counters."""

from pingora_limits._version import __version__

__all__ = ["__version__"]
