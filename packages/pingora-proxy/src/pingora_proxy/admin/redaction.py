"""A configuration without its secrets, fit to be shown.

Theory of operation. What is a secret is told by the name of its key, or of any key above it: one
word of it is enough (``redis_password``, ``apiKey``, ``tls.private-key``). Rather one value too many is
hidden than one too few. Texts are looked into as well: passwords and secret parameters in URLs, and
private keys, are replaced wherever they are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence, Set as AbstractSet
from dataclasses import fields, is_dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["REDACTED", "is_secret_name", "redact"]

REDACTED: Final = "[redacted]"
"""What is shown in place of a secret."""

_SECRET_WORDS: Final = frozenset({
    "apikey", "auth", "authentication", "authorization", "bearer", "cookie", "cookies",
    "credential", "credentials", "dsn", "jwt", "key", "keys", "nonce", "pass", "passphrase",
    "passwd", "password", "passwords", "pepper", "private", "psk", "pw", "pwd", "salt",
    "secret", "secrets", "session", "signature", "signing", "token", "tokens",
})  # fmt: skip
# Words as people write them: snake_case, kebab-case, camelCase, HTTPHeader.
_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_USER_INFO: Final = re.compile(r"(?<=://)[^/?#\s@]*(?:@[^/?#\s@]*)*(?=@)")
_PARAMETER: Final = re.compile(r"(?<=[?&;])([^=&;#\s]+)=([^&;#\s]+)")
_PRIVATE_KEY: Final = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_MAX_DEPTH: Final = 12
_MAX_ITEMS: Final = 1000
_MAX_TEXT: Final = 4096


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


def _redact(value: object, depth: int, *, is_secret: bool) -> object:
    if value is None or isinstance(value, bool):
        return value
    if depth > _MAX_DEPTH:
        return "..."
    if is_dataclass(value) and not isinstance(value, type):
        value = {each.name: getattr(value, each.name) for each in fields(value)}
    if isinstance(value, Mapping):
        return {
            _text(name): _redact(each, depth + 1, is_secret=is_secret or is_secret_name(name))
            for name, each in _items(value)
        }
    if isinstance(value, Sequence | AbstractSet) and not isinstance(value, str | bytes | bytearray):
        items = islice(value, _MAX_ITEMS)
        return [_redact(each, depth + 1, is_secret=is_secret) for each in items]
    return REDACTED if is_secret else _leaf(value)


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
    if _PRIVATE_KEY.search(text) is not None:
        return REDACTED
    text = _USER_INFO.sub(REDACTED, text[:_MAX_TEXT])
    return _PARAMETER.sub(_parameter, text)


def _parameter(match: re.Match[str]) -> str:
    name: str = match[1]
    return f"{name}={REDACTED}" if is_secret_name(name) else match[0]
