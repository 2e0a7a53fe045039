"""The text that the parts of a head are given as."""

from __future__ import annotations

from pingora_error import Error, ErrorType

__all__ = ["explain", "to_bytes"]


def explain(what: str, text: str | bytes) -> str:
    """Say what is wrong with a part of a head that cannot be sent.

    Args:
        what: Which part.
        text: What it holds; only its beginning is shown.

    Returns:
        The context of an error.
    """
    return f"invalid {what}: {text[:64]!r}"


def to_bytes(what: str, text: str | bytes) -> bytes:
    """Encode text of a head the way it is decoded when read: as latin-1.

    Args:
        what: What it is, for the error.
        text: Text, or bytes to pass through.

    Returns:
        The bytes.

    Raises:
        Error: ``INVALID_HTTP_HEADER`` if there is a character beyond latin-1.
        TypeError: If it is neither text nor bytes.
    """
    if isinstance(text, bytes):
        return text
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise Error(ErrorType.INVALID_HTTP_HEADER, explain(what, text)) from None
    except AttributeError:  # not seen by whoever runs no type checker
        raise TypeError(f"{what}: str or bytes is needed, not {type(text).__name__}") from None
