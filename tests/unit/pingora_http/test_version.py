"""Versions of HTTP."""

from __future__ import annotations

from pingora_http import Version


def test_versions_compare_and_print() -> None:
    """Versions are ordered by age and print as they are written."""
    assert sorted(Version) == list(Version)
    assert [str(version) for version in Version] == [
        "HTTP/0.9",
        "HTTP/1.0",
        "HTTP/1.1",
        "HTTP/2.0",
        "HTTP/3.0",
    ]
