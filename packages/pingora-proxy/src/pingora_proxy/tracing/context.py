"""The trace context: which trace a request belongs to (W3C Trace Context, level 2).

Rules of this file: what cannot be read is no context, and its ``tracestate`` goes with it; a
version that is newer is read as far as it is known, and sent on as version 00.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_http import HeaderMap

__all__ = ["TraceContext"]

_PARENT: Final = re.compile(
    rb"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})"
    rb"(?P<rest>-.*)?"
)
_MEMBER: Final = re.compile(
    rb"[ \t]*[a-z0-9][a-z0-9_\-*/@]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e][ \t]*"
)
_SAMPLED: Final = 1
_MAX_MEMBERS: Final = 32
_MAX_STATE: Final = 512


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A position in a trace.

    Attributes:
        trace_id: The trace; 32 hexadecimal digits.
        span_id: The span that the next one is a child of; 16 hexadecimal digits.
        flags: 1 if the trace is recorded.
        state: What vendors have added (``tracestate``); empty for nothing.
    """

    trace_id: str
    span_id: str
    flags: int = 0
    state: str = ""

    @property
    def is_sampled(self) -> bool:
        """Whether the trace is recorded."""
        return bool(self.flags & _SAMPLED)

    @classmethod
    def start(cls, random_bytes: Callable[[int], bytes], *, sampled: bool) -> TraceContext:
        """Begin a trace.

        Args:
            random_bytes: Gives so many random bytes.
            sampled: Whether the trace is recorded.

        Returns:
            Its first position.
        """
        return cls(random_bytes(16).hex(), random_bytes(8).hex(), int(sampled))

    @classmethod
    def read(cls, header: HeaderMap) -> TraceContext | None:
        """Read the context that a head carries.

        Args:
            header: The head.

        Returns:
            The context; None if there is none that can be read, or there are several.
        """
        lines = header.get_all_raw(b"traceparent")
        if len(lines) != 1:
            return None
        match = _PARENT.fullmatch(lines[0].strip(b" \t"))
        if match is None or match["version"] == b"ff":
            return None
        if match["rest"] is not None and match["version"] == b"00":
            return None
        trace, span = match["trace"].decode(), match["span"].decode()
        if not trace.strip("0") or not span.strip("0"):
            return None
        return cls(trace, span, int(match["flags"], 16) & 0x03, _state(header))

    def child(self, random_bytes: Callable[[int], bytes]) -> TraceContext:
        """Go one span deeper.

        Args:
            random_bytes: Gives so many random bytes.

        Returns:
            A context of the same trace with a span of its own.
        """
        return replace(self, span_id=random_bytes(8).hex())

    def write(self, header: HeaderMap) -> None:
        """Put the context into a head, in place of the one it carries.

        Args:
            header: The head; changed.
        """
        header.insert_header("traceparent", f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}")
        if self.state:
            header.insert_header("tracestate", self.state)
        else:
            header.remove_header("tracestate")


def _state(header: HeaderMap) -> str:
    members: list[bytes] = []
    for line in header.get_all_raw(b"tracestate"):
        for member in line.split(b","):
            if not member.strip(b" \t"):
                continue
            if _MEMBER.fullmatch(member) is None:
                return ""
            members.append(member.strip(b" \t"))
    keys = {member.partition(b"=")[0] for member in members}
    if len(members) > _MAX_MEMBERS or len(keys) < len(members):
        return ""
    # What does not fit goes from the end, long members first would be kinder, but rarely matters.
    while members and sum(map(len, members)) + len(members) > _MAX_STATE:
        members.pop()
    return b",".join(members).decode("ascii")
