"""Reason phrases."""

from __future__ import annotations

from http import HTTPStatus

import pytest

from pingora_http.grammar import is_field_value
from pingora_http.status import REASON_PHRASES, reason_phrase


@pytest.mark.parametrize("status", sorted(set(HTTPStatus) - {418, 103, 413, 414, 416, 422}))
def test_phrases_are_the_usual_ones(status: int) -> None:
    """Phrases agree with the standard library's, but for those that were renamed since."""
    assert reason_phrase(status) == HTTPStatus(status).phrase.encode()


def test_unknown_status() -> None:
    """A status that nobody registered has no phrase."""
    assert reason_phrase(299) == b""


def test_every_phrase_can_be_sent() -> None:
    """No phrase would end a status line."""
    assert all(100 <= code <= 599 and is_field_value(p) for code, p in REASON_PHRASES.items())
