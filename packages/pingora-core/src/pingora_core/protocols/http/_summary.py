"""Which request it is, in a line of a log; no I/O."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pingora_http import RequestHeader

__all__ = ["summary_of"]

_LONGEST: Final = 256
_USER_INFO: Final = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.-]*://)[^/?#]*@")


def summary_of(request: RequestHeader) -> str:
    """Say which request it is.

    Args:
        request: Its head, as it came from a client.

    Returns:
        ``METHOD path, Host: host``. The query is left out, and so are users and passwords: they are
        secrets. What is longer than 256 characters is cut, and what cannot be printed is escaped.
    """
    path = _USER_INFO.sub(r"\1***@", request.path)
    return f"{_shown(request.method)} {_shown(path)}, Host: {_shown(request.get('host', ''))}"


def _shown(text: str) -> str:
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}..."
    return text if text.isprintable() else repr(text)[1:-1]
