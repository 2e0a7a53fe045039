"""Bytes of requests as text in logs: nothing that could be taken for another line or field."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from collections.abc import Collection

    from pingora_proxy.session import Session

__all__ = ["combined_line", "cut", "printable", "readable", "redact"]

# Tables and no patterns: whoever sends nothing else costs a tenth of the time.
_CONTROLS: Final = {code: f"\\x{code:02x}" for code in range(256) if not 0x20 <= code <= 0x7E}
_UNQUOTABLE: Final = _CONTROLS | {ord(mark): f"\\x{ord(mark):02x}" for mark in '"\\'}
_PAIR: Final = re.compile(rb"(^|[?&;#])([^=?&;#]*)=[^&;#]*")
# Looks back instead of searching for the scheme: clients choose the text, and time grows with it once.
_USER_INFO: Final = re.compile(rb"(?:^|(?<=[a-zA-Z0-9+.-]:))//(?:[^/?#@ ]*@)+")
_LONGEST: Final = 4096


def printable(raw: bytes) -> str:
    r"""Make text of bytes that came over the wire.

    Args:
        raw: The bytes.

    Returns:
        The text; whatever is not printable ASCII as ``\xNN``.
    """
    text = raw.decode("latin-1")
    return text if text.isascii() and text.isprintable() else text.translate(_CONTROLS)


def cut(raw: bytes) -> bytes:
    """Keep lines from becoming as long as clients want them.

    Args:
        raw: The bytes.

    Returns:
        They, or their first 4,096 and an ellipsis.
    """
    return raw if len(raw) <= _LONGEST else raw[:_LONGEST] + b"..."


def readable(text: str) -> str:
    """Make text of our own such that it can be encoded, and is not too long.

    Args:
        text: The text, such as that of an error.

    Returns:
        It, or as much of it as goes into a line.
    """
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}..."
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def redact(raw: bytes, secret: Collection[bytes]) -> bytes:
    """Hide the values of some parameters, and who the user is.

    Args:
        raw: A query without the ``?``, or something that has one in it: a URL, a field with one.
        secret: The names of the parameters, in lower case.

    Returns:
        It, with such values as ``***``: in queries and fragments, whatever their names are
        encoded with, also where a name is a part of one: ``user[password]``. What stands before
        an ``@`` in the authority of a URL is ``***`` as well.
    """

    def hide(match: re.Match[bytes]) -> bytes:
        name = match[2]
        if b"%" in name or b"+" in name:
            name = unquote_to_bytes(name.replace(b"+", b" ")).strip()
        name = name.lower()
        if name in secret or (b"[" in name and not _parts_of(name).isdisjoint(secret)):
            return match[1] + match[2] + b"=***"
        return match[0]

    if b"=" in raw:
        raw = _PAIR.sub(hide, raw)
    return _USER_INFO.sub(b"//***@", raw) if b"@" in raw else raw


def _parts_of(name: bytes) -> frozenset[bytes]:
    return frozenset(name.replace(b"]", b"").split(b"["))


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
    target = redact(cut(request.raw_target), secret_parameters)
    record = session.record
    now = time.time() if record is None else record.started_at
    moment = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(now))
    client = down.client_addr
    host = "-" if client is None else getattr(client, "host", "-") or "-"
    line = (
        f'{host} - - [{moment}] "{_quoted(cut(request.raw_method))} {_quoted(target)} '
        f'{request.version}" {status or 499} {down.body_bytes_sent} '
        f'"{_quoted(redact(cut(request.get_raw(b"referer") or b"-"), secret_parameters))}" '
        f'"{_quoted(cut(request.get_raw(b"user-agent") or b"-"))}"'
    )
    return line.encode("ascii", "backslashreplace")


def _quoted(raw: bytes) -> str:
    text = raw.decode("latin-1")
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return text
    return text.translate(_UNQUOTABLE)
