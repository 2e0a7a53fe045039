"""How large an HTTP/1 message head may be, and which strictness may be loosened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["DEFAULT_LIMITS", "FramingOptions", "HeadLimits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadLimits:
    """Limits on a message head. A request beyond them is answered with 414 or 431.

    Attributes:
        max_head_size: The whole head, bytes. Precedents: nginx 4 x 8 KiB, Node 16 KiB, Envoy
            60 KiB, Pingora 1 MiB.
        max_fields: Number of fields. Precedents: Apache 100, Envoy 100, Pingora 256.
        max_target_size: The request target, bytes. Precedents: Apache 8190, RFC 9110 section
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

    Attributes:
        allow_obs_fold_in_response: Join folded lines of response fields with a space (RFC 9112
            section 5.2), instead of refusing the response.
        allow_invalid_response_content_length: Treat a response whose Content-Length is no
            number as delimited by the close of the connection, instead of refusing it.
    """

    allow_obs_fold_in_response: bool = False
    allow_invalid_response_content_length: bool = False
