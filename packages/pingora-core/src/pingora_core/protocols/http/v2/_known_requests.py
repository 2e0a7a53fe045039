"""Requests that differ from an earlier one in their path only: judged once, but for the path.

Theory of operation. A client that is a program repeats all of its fields with each request. What the
rules of HTTP/2 say about them, pseudo-header fields apart from ``:path`` included, depends on nothing
else, so that the result is remembered, as HTTP/1 does with the lines of a head. Memory is bounded, and
nothing is kept that is long or a credential.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pingora_core.protocols.http._credentials import CREDENTIALS

if TYPE_CHECKING:
    from pingora_core.protocols.http.v2._field_rules import Fields

__all__ = ["KnownRequest", "known_request", "note_request"]

_MAX_REQUESTS: Final = 512
_MAX_SIZE: Final = 1024
# A request has four pseudo-header fields.
_PSEUDO: Final = 4
_PLAIN: Final = {tuple}


class KnownRequest(NamedTuple):
    """What was found out about a request, its path apart.

    Attributes:
        method: The method.
        path: The path; that of the request in question.
        items: The fields of its head, Host among them; not to be changed.
        values: Their values by name; not to be changed.
    """

    method: bytes
    path: bytes
    items: tuple[tuple[bytes, bytes], ...]
    values: dict[bytes, bytes]


_Section = tuple[tuple[bytes, bytes], ...]
_requests: dict[_Section, tuple[bytes, _Section, dict[bytes, bytes]]] = {}


def known_request(fields: Fields) -> KnownRequest | None:
    """Find what is known of a request.

    Args:
        fields: Its header block.

    Returns:
        What was noted, with the path of this one, which nobody has judged; None if there is
        nothing.
    """
    key, path = _split(fields)
    # A field that no table may hold equals one that any may.
    known = _requests.get(key) if key and set(map(type, fields)) == _PLAIN else None
    return None if known is None else KnownRequest(known[0], path, known[1], known[2])


def note_request(fields: Fields, method: bytes, items: Fields, values: dict[bytes, bytes]) -> None:
    """Remember a request that was found good, and that says nothing of a length or another protocol.

    Args:
        fields: Its header block.
        method: Its method.
        items: The fields of its head.
        values: Their values by name; no name repeats.
    """
    if not CREDENTIALS.isdisjoint(values):
        return
    key, _ = _split(fields)
    if (
        key
        and set(map(type, fields)) == _PLAIN
        and sum(len(name) + len(value) for name, value in key) <= _MAX_SIZE
    ):
        if len(_requests) >= _MAX_REQUESTS:
            _requests.clear()
        _requests[key] = (method, tuple(items), values.copy())


def _split(fields: Fields) -> tuple[_Section, bytes]:
    # Where a path is: browsers have it at the end of the four, programs anywhere.
    for at in range(min(len(fields), _PSEUDO) - 1, -1, -1):
        if fields[at][0] == b":path":
            if at and fields[at - 1][0][:1] != b":":
                break  # behind a field, where it may not be
            return (*fields[:at], *fields[at + 1 :]), fields[at][1]
    return (), b""
