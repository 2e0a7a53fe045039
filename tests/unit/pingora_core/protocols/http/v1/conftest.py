"""Both engines, for every test that parses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pingora_core.protocols.http.v1 import get_parser

if TYPE_CHECKING:
    from pingora_core.protocols.http.v1 import Http1Parser


@pytest.fixture(params=["httptools", "h11"])
def parser(request: pytest.FixtureRequest) -> Http1Parser:
    """Return an engine."""
    return get_parser(request.param)
