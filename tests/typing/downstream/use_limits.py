"""A program that needs pingora-limits, of which only the name is there so far."""

from __future__ import annotations

from pingora_limits import __version__


def series(version: str = __version__) -> tuple[int, int]:
    """Tell which releases belong together."""
    major, minor, *_ = version.split(".")
    return int(major), int(minor)


if __name__ == "__main__":
    assert series() >= (0, 1)
