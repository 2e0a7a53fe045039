"""The fixtures of the testing kit; loaded as a plugin they would be too late for their asserts."""

from __future__ import annotations

from pingora_proxy.testing.pytest_plugin import scripted_origin, start_proxy

__all__ = ["scripted_origin", "start_proxy"]
