"""What OpenSSL's errors mean here."""

from __future__ import annotations

from OpenSSL import SSL

from pingora_error import Error, ErrorType

__all__ = ["handshake_error", "reason_of"]


def handshake_error(error: SSL.Error) -> Error:
    """Turn the failure of a handshake into this framework's error.

    Args:
        error: What OpenSSL raised.

    Returns:
        ``INVALID_CERT`` if the peer's certificate was not accepted here, else
        ``TLS_HANDSHAKE_FAILURE``; an alert from the peer about our certificate is the latter.
    """
    reason = reason_of(error)
    rejected = "certificate verify failed" in reason
    etype = ErrorType.INVALID_CERT if rejected else ErrorType.TLS_HANDSHAKE_FAILURE
    return Error(etype, f"TLS: {reason}", cause=error)


def reason_of(error: SSL.Error) -> str:
    """Say in words what OpenSSL complains about.

    Args:
        error: What it raised.

    Returns:
        Its reasons, the first cause first; the name of the exception if it gave none.
    """
    reasons: list[str] = []
    details: object = error.args[0] if error.args else None
    if isinstance(details, list):
        for detail in details:
            match detail:
                case (_, _, str(reason)) if reason:
                    reasons.append(reason)
                case _:
                    continue
    elif isinstance(error, SSL.SysCallError) and len(error.args) > 1:
        reasons.append(str(error.args[1]))
    return ", ".join(reasons) or type(error).__name__
