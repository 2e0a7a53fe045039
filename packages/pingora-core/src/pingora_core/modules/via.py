"""Tells the next hop what a message came through: ``Via`` (RFC 9110 section 7.6.3).

A gateway that sends to itself, through whatever other hops, would go round until something runs
out. It sees its own name in the field and ends the loop at the second pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pingora_core.modules.module import Answer, HttpModule, HttpModuleBuilder
from pingora_http import ResponseHeader, Version
from pingora_http.grammar import is_token

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pingora_http import HeaderMap, RequestHeader

__all__ = ["Via", "ViaBuilder"]

_LOOP_DETECTED: Final = 508
_PROTOCOLS: Final = {
    version: f"{version // 10}.{version % 10}" if version < Version.HTTP_20 else f"{version // 10}"
    for version in Version
}


class Via(HttpModule):
    """Adds the field to requests and, if it is wanted, to responses.

    Args:
        pseudonym: The name of this hop.
        requests_end_loops: Whether a request that bears the name is answered with 508.
        responses: Whether responses get the field, too.
    """

    __slots__ = ("_pseudonym", "_requests_end_loops", "_responses")

    def __init__(self, pseudonym: str, *, requests_end_loops: bool, responses: bool) -> None:
        self._pseudonym = pseudonym
        self._requests_end_loops = requests_end_loops
        self._responses = responses

    async def request_header_filter(self, request: RequestHeader) -> Answer | None:
        """Add the field, or end a loop; see ``HttpModule``.

        Returns:
            The answer that ends a loop.
        """
        hops = request.get_all("via")
        if self._requests_end_loops and self._pseudonym.lower() in _names(hops):
            header = ResponseHeader(_LOOP_DETECTED, headers=[("Content-Length", "0")])
            return Answer(header)
        self._add(request, hops, request.version)
        return None

    async def response_header_filter(self, response: ResponseHeader, end: bool) -> None:  # noqa: FBT001 - Pingora's signature
        """Add the field if that is wanted; see ``HttpModule``."""
        _ = end
        if self._responses:
            self._add(response, response.get_all("via"), response.version)

    def _add(self, head: HeaderMap, hops: list[str], version: Version) -> None:
        head.insert_header("Via", ", ".join([*hops, f"{_PROTOCOLS[version]} {self._pseudonym}"]))


class ViaBuilder(HttpModuleBuilder):
    """Adds ``Via`` to the requests of a service, and ends loops with 508.

    Args:
        pseudonym: A name of this hop that no other hop of the path has; machines that do the same
            job may share it. It is told to origins: no need for it to be a host name.
        requests_end_loops: Whether a request that bears the name is answered with 508 Loop
            Detected instead of being forwarded.
        responses: Whether clients are told, too, which a gateway may do (RFC 9110 section 7.6.3).
        order: When the module runs; higher is earlier.

    Raises:
        ValueError: If the pseudonym is no token; the message quotes it.

    Examples:
        >>> ViaBuilder("edge").init().__class__.__name__
        'Via'
    """

    module_type = Via

    def __init__(
        self,
        pseudonym: str,
        *,
        requests_end_loops: bool = True,
        responses: bool = False,
        order: int = 0,
    ) -> None:
        if not is_token(pseudonym.encode("utf-8", "surrogatepass")):
            raise ValueError(f"a pseudonym is a token such as 'edge', not {pseudonym!r}")
        self._pseudonym = pseudonym
        self._requests_end_loops = requests_end_loops
        self._responses = responses
        self.order = order

    def init(self) -> Via:
        """Make the module of one request; see ``HttpModuleBuilder``.

        Returns:
            The module.
        """
        return Via(
            self._pseudonym,
            requests_end_loops=self._requests_end_loops,
            responses=self._responses,
        )


def _names(hops: Iterable[str]) -> set[str]:
    """Collect the second word of each hop, in lower case.

    Returns:
        The names. What is no hop has none.
    """
    words = (hop.split() for value in hops for hop in _without_comments(value).split(","))
    return {parts[1].lower() for parts in words if len(parts) > 1}


def _without_comments(value: str) -> str:
    # Comments nest, and may have commas and names in them (RFC 9110 section 5.6.5).
    kept = []
    depth = 0
    is_quoted = False
    for char in value:
        if is_quoted:
            is_quoted = False
        elif depth and char == "\\":
            is_quoted = True
        elif char == "(":
            depth += 1
        elif char == ")" and depth:
            depth -= 1
        elif not depth:
            kept.append(char)
    return "".join(kept)
