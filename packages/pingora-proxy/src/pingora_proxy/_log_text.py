"""Bytes of requests as text in logs: nothing that could be taken for another line or field."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection

    from pingora_proxy.session import Session

__all__ = ["combined_line", "printable", "redact_query"]

_UNPRINTABLE: Final = re.compile(r"[^\x20-\x7e]|[\"\\]")
_CONTROLS: Final = re.compile(r"[^\x20-\x7e]")


def printable(raw: bytes) -> str:
    r"""Make text of bytes that came over the wire.

    Args:
        raw: The bytes.

    Returns:
        The text; whatever is not printable ASCII as ``\xNN``.
    """
    text = raw.decode("latin-1")
    return text if text.isascii() and text.isprintable() else _CONTROLS.sub(_escape, text)


def redact_query(query: bytes, secret: Collection[bytes]) -> bytes:
    """Hide the values of some parameters.

    Args:
        query: The query, without the ``?``.
        secret: The names of the parameters, in lower case.

    Returns:
        The query, their values ``***``.
    """
    if b"=" not in query:
        return query
    parts = []
    for part in query.split(b"&"):
        name, equals, _ = part.partition(b"=")
        hidden = equals and name.lower() in secret
        parts.append(name + b"=***" if hidden else part)
    return b"&".join(parts)


def combined_line(session: Session, status: int, secret_parameters: Collection[bytes]) -> bytes:
    """Make a line in the combined format.

    Args:
        session: The request, at its end.
        status: What was answered; 0 for nothing, which is written as 499 as nginx does.
        secret_parameters: Query parameters whose values are hidden.

    Returns:
        The line, without a line end.
    """
    down = session.downstream_session
    request = down.request
    path, mark, query = request.raw_target.partition(b"?")
    target = path + mark + redact_query(query, secret_parameters)
    record = session.record
    now = time.time() if record is None else record.started_at
    moment = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(now))
    client = down.client_addr
    host = "-" if client is None else getattr(client, "host", "-") or "-"
    line = (
        f'{host} - - [{moment}] "{_quoted(request.raw_method)} {_quoted(target)} '
        f'{request.version}" {status or 499} {down.body_bytes_sent} '
        f'"{_quoted(request.get_raw(b"referer") or b"-")}" '
        f'"{_quoted(request.get_raw(b"user-agent") or b"-")}"'
    )
    return line.encode("ascii", "backslashreplace")


def _quoted(raw: bytes) -> str:
    return _UNPRINTABLE.sub(_escape, raw.decode("latin-1"))


def _escape(match: re.Match[str]) -> str:
    return f"\\x{ord(match[0]):02x}"
