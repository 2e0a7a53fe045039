"""A clock that moves only when a test says so: that of the testing kit."""

from __future__ import annotations

from pingora_proxy.testing.clock import FakeClock

__all__ = ["FakeClock"]
