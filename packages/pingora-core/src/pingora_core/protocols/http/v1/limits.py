"""How large an HTTP/1 message head may be, and which strictness may be loosened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["DEFAULT_LIMITS", "STRICT", "FramingOptions", "HeadLimits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadLimits:
    """Limits on a message head. A request beyond them is answered with 414 or 431.

    Attributes:
        max_head_size: The whole head, bytes. Precedents: nginx 4 x 8 KiB, Node 16 KiB, Envoy
            60 KiB, Pingora 1 MiB.
        max_fields: Number of fields. Precedents: Apache 100, Envoy 100, Pingora 256.
        max_target_size: The request target, bytes. Precedents: Apache 8190; RFC 9110 section
            4.1 asks for 8000 at least.
        max_field_size: One line, bytes. Precedents: Apache 8190, nginx 8 KiB; cookies of large
            sites come to 16 KiB.
    """

    max_head_size: int = 65536
    max_fields: int = 256
    max_target_size: int = 16384
    max_field_size: int = 32768


DEFAULT_LIMITS: Final = HeadLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class FramingOptions:
    """What practice may need to have loosened; nothing here makes two readings possible.

    All of it is for responses: an upstream is chosen and known, a client is neither. The head
    is repaired before it is read (see ``loosen_response_head``), so that the engine, the checks
    and whoever gets the response behind us see one and the same text.

    Attributes:
        allow_obs_fold_in_response: Join folded lines of response fields with a space, instead
            of refusing the response (RFC 9112 section 5.2).
        allow_space_before_colon_in_response: Remove white space between a field name and its
            colon, instead of refusing the response (RFC 9112 section 5.1).
        allow_invalid_response_content_length: Treat a response whose Content-Length is no
            number, or is there twice, as delimited by the close of the connection, instead of
            refusing it. The field is removed.
    """

    allow_obs_fold_in_response: bool = False
    allow_space_before_colon_in_response: bool = False
    allow_invalid_response_content_length: bool = False


STRICT: Final = FramingOptions()
"""Nothing is loosened. One object, which is asked for by identity for each response."""
