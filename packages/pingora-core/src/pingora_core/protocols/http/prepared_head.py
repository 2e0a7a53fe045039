"""A response head that is sent many times: written once, and each time completed by its age.

Most of what a small response out of a cache costs is its head: to copy it, to add to it, to find
out how its body is delimited, to write it. All but the age is the same every time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from pingora_http import Version

if TYPE_CHECKING:
    from pingora_http import ResponseHeader

__all__ = ["PreparedHead"]

# What belongs to a connection or to a moment: each sending has its own.
_OWN_FIELDS: Final = frozenset({b"age", b"connection", b"keep-alive", b"transfer-encoding"})


@final
class PreparedHead:
    """The head of a final response with a body of known size, ready to be sent.

    Args:
        header: The head, with ``Date``, and without what ``Connection`` names. Kept, and not to be
            changed any more.
        length: Bytes of the body.

    Raises:
        ValueError: If the status is one that comes without a body, or there is no ``Date``.

    Attributes:
        header: As given.
        length: As given.
        wire: The head as HTTP/1 writes it, up to where ``Age`` and ``Connection`` follow.
    """

    __slots__ = ("header", "length", "wire")

    def __init__(self, header: ResponseHeader, length: int) -> None:
        if header.status < 200 or header.status in {204, 304} or b"date" not in header.keys_lower():
            msg = f"the head of a {header.status} cannot be prepared, or not without a Date"
            raise ValueError(msg)
        self.header: ResponseHeader = header
        self.length: int = length
        head = header.copy()
        head.version = Version.HTTP_11
        head.remove_headers(_OWN_FIELDS)
        head.set_content_length(length)
        self.wire: bytes = head.to_wire()[:-2]

    def complete(self, age: int) -> ResponseHeader:
        """Make the head that stands for what is sent.

        Args:
            age: How old the response is, seconds.

        Returns:
            A head of the caller's own.
        """
        head = self.header.copy()
        head.remove_headers(_OWN_FIELDS)
        head.set_content_length(self.length)
        head.insert_header(b"Age", b"%d" % age)
        return head
