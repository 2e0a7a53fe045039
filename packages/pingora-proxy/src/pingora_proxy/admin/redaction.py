"""A configuration without its secrets, fit to be shown.

Theory of operation. The keys of the server itself are known, and none of them holds a secret. What an
application has in its own sections nobody here knows: of these the names alone are shown, unless the
program says that a part may be (`visible`). Even there a value is hidden by the name of its key, or of any
key above it: one word of it is enough (``redis_password``, ``apiKey``, ``tls.private-key``). Texts are
looked into as well: passwords and secret parameters in URLs and connection strings, credentials of header
fields, and private keys are replaced wherever they are. Rather one value too many is hidden than one too few.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence, Set as AbstractSet
from dataclasses import fields, is_dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

__all__ = ["HIDDEN", "REDACTED", "is_secret_name", "redact", "visible"]

REDACTED: Final = "[redacted]"
"""What is shown in place of a secret."""

HIDDEN: Final = "[hidden: not in show_config]"
"""What is shown in place of a part that nobody has said may be shown."""

_SECRET_WORDS: Final = frozenset({
    "apikey", "auth", "authentication", "authorization", "bearer", "cookie", "cookies",
    "credential", "credentials", "dsn", "jwt", "key", "keys", "nonce", "pass", "passphrase",
    "passwd", "password", "passwords", "pepper", "private", "psk", "pw", "pwd", "salt",
    "secret", "secrets", "session", "signature", "signing", "token", "tokens",
})  # fmt: skip
# Words as people write them: snake_case, kebab-case, camelCase, HTTPHeader.
_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_USER_INFO: Final = re.compile(r"(?<=://)[^/?#\s@]*(?:@[^/?#\s@]*)*(?=@)")
# Of URLs (?a=1&b=2) and connection strings (host=db password=x). Neither here nor in fields may a search
# go beyond where the next one begins: the time would grow with the square of the text.
_PARAMETER: Final = re.compile(r"(?<![^?&;#\s,])([^=&;#\s?,]+)=('[^']*'|\"[^\"]*\"|[^&;#\s]+)")
_FIELD: Final = re.compile(r"(?m)^[^\S\n]*([A-Za-z][\w .-]{0,63})\s*:\s+\S.*$")
_CREDENTIALS: Final = re.compile(r"(?i)\b(bearer|basic|digest)\s+[^\s,]+")
_NAMING: Final = frozenset({"name", "header", "field"})
_PRIVATE_KEY: Final = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_MAX_DEPTH: Final = 12
_MAX_ITEMS: Final = 1000
_MAX_TEXT: Final = 4096
# Beyond this a text is not looked into, and so not shown.
_MAX_SEARCHED: Final = 64 * 1024


def is_secret_name(name: str) -> bool:
    """Tell whether a key with this name holds a secret.

    Args:
        name: The name.

    Returns:
        Whether one of its words, or the whole without what separates them, stands for a secret.

    Examples:
        >>> [is_secret_name(name) for name in ("redis_password", "apiKey", "key_path", "keylog")]
        [True, True, True, False]
    """
    words = [word.lower() for word in _WORDS.findall(name)]
    return not _SECRET_WORDS.isdisjoint(words) or "".join(words) in _SECRET_WORDS


def redact(value: object) -> object:
    """Make something that can be written as JSON, without secrets.

    Nothing, yes and no are shown also where a secret would be: whether it is set is worth knowing.

    Args:
        value: Mappings, sequences, sets, dataclasses, texts, numbers; of anything else its type.

    Returns:
        A copy; bounded in depth and size.
    """
    return _redact(value, 0, is_secret=False)


def visible(sections: Mapping[str, object], shown: Collection[str]) -> dict[str, object]:
    """Show of the application's sections what may be shown, without its secrets.

    Args:
        sections: They by name.
        shown: Parts that may be shown, with all that is below them: ``limits``, or ``routes.web`` for
            one part of a section.

    Returns:
        A copy; `HIDDEN` in place of everything else, the names below a section included.
    """
    paths = [tuple(path.split(".")) for path in shown]
    return {
        name: _visible(value, name, paths) for name, value in islice(sections.items(), _MAX_ITEMS)
    }


def _visible(value: object, name: str, paths: list[tuple[str, ...]]) -> object:
    # Secrets may be names of mappings as well: {"keys": {"sk-live-...": "tenant"}}.
    below = [path[1:] for path in paths if path[0] == name]
    if () in below:
        return _redact(value, 0, is_secret=is_secret_name(name))
    if not below or not isinstance(value, Mapping):
        return HIDDEN
    parts = {
        part: _visible(each, part, below)
        for part, each in _items(value)
        if any(path[0] == part for path in below)
    }
    return parts if len(parts) == len(value) else parts | {"...": HIDDEN}


def _redact(value: object, depth: int, *, is_secret: bool) -> object:
    if value is None or isinstance(value, bool):
        return value
    if depth > _MAX_DEPTH:
        return "..."
    if is_dataclass(value) and not isinstance(value, type):
        value = {each.name: getattr(value, each.name) for each in fields(value)}
    if isinstance(value, Mapping):
        # Below the name of a secret names may be secrets, too: {"tokens": {"sk-live-...": "bob"}}.
        return REDACTED if is_secret else _redact_mapping(value, depth)
    if isinstance(value, Sequence | AbstractSet) and not isinstance(value, str | bytes | bytearray):
        items = islice(value, _MAX_ITEMS)
        return [_redact(each, depth + 1, is_secret=is_secret) for each in items]
    return REDACTED if is_secret else _leaf(value)


def _redact_mapping(mapping: Mapping[object, object], depth: int) -> dict[str, object]:
    # As headers are often written: a name in one value, what it stands for in another.
    is_named_secret = any(
        isinstance(said := mapping.get(naming), str) and is_secret_name(said)
        for naming in (*_NAMING, "key")
    )
    return {
        _text(name): _redact(
            value,
            depth + 1,
            is_secret=is_secret_name(name) or (is_named_secret and name not in _NAMING),
        )
        for name, value in _items(mapping)
    }


def _items(mapping: Mapping[object, object]) -> Iterator[tuple[str, object]]:
    for key, value in islice(mapping.items(), _MAX_ITEMS):
        yield str(key), value


def _leaf(value: object) -> object:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value) if isinstance(value, float) else f"<{type(value).__name__}>"


def _text(text: str) -> str:
    if _PRIVATE_KEY.search(text) is not None or len(text) > _MAX_SEARCHED:
        return REDACTED
    text = _USER_INFO.sub(REDACTED, text)
    text = _CREDENTIALS.sub(rf"\1 {REDACTED}", text)
    text = _PARAMETER.sub(_parameter, text)
    # Cut only now: half a secret would not be recognised.
    return _FIELD.sub(_field, text)[:_MAX_TEXT]


def _parameter(match: re.Match[str]) -> str:
    name: str = match[1]
    return f"{name}={REDACTED}" if is_secret_name(name) else match[0]


def _field(match: re.Match[str]) -> str:
    name: str = match[1]
    return f"{name}: {REDACTED}" if is_secret_name(name) else match[0]
