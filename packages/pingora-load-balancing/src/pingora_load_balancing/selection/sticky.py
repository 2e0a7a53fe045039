"""Sticky sessions: the backend that served a client before serves it again.

Theory of operation: each backend has a token, a hash of its address, that names it to clients
without telling where it is. The token comes back in a cookie or a header and is used as the key:
the backend of that token is the first candidate, and the inner selection goes on from there when it
is gone or not ready. A key that is no token goes to the inner selection, so that a hashing one
makes any session identifier sticky.
"""

from __future__ import annotations

from hashlib import blake2b
from itertools import chain
from typing import TYPE_CHECKING, Final, final

from pingora_load_balancing.selection.addresses import address_identity
from pingora_load_balancing.selection.interfaces import prepared
from pingora_load_balancing.selection.round_robin import RoundRobin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pingora_http import RequestHeader, ResponseHeader
    from pingora_load_balancing.backend import Backend
    from pingora_load_balancing.backend_set import BackendSet
    from pingora_load_balancing.selection.interfaces import SelectionBuilder

__all__ = ["Sticky", "StickyCookie", "sticky_token"]

_SLICE: Final = 256


def sticky_token(backend: Backend, secret: bytes = b"") -> bytes:
    """Make the token that names a backend to clients.

    Args:
        backend: The backend; its address counts.
        secret: At most 64 bytes that only the balancers know, so that nobody outside can tell
            which address a token stands for.

    Returns:
        16 hexadecimal digits.
    """
    identity = address_identity(backend.addr)
    return blake2b(identity, key=secret, digest_size=8).hexdigest().encode()


@final
class Sticky:
    """Gives the backend whose token is the key; for other keys what the inner selection gives.

    Args:
        backends: The set.
        inner: For clients that have no token yet, and when their backend cannot be used. One that
            ignores the key goes with cookies, one that hashes it with session identifiers.
        secret: As for `sticky_token`.
        keep_drained: Whether sessions stay with a backend whose weight has become 0. Otherwise
            they move at once.

    Examples:
        >>> from functools import partial
        >>> from pingora_load_balancing import Backend, LoadBalancer
        >>> balancer = LoadBalancer(["10.0.0.1:80", "10.0.0.2:80"], selection=Sticky)
        >>> token = sticky_token(Backend("10.0.0.2:80"))
        >>> [str(balancer.select(token, 256)) for _ in range(2)]
        ['10.0.0.2:80', '10.0.0.2:80']
    """

    __slots__ = ("_by_token", "_inner", "_secret", "_todo")

    def __init__(
        self,
        backends: BackendSet,
        inner: SelectionBuilder = RoundRobin,
        *,
        secret: bytes = b"",
        keep_drained: bool = False,
    ) -> None:
        self._inner = inner(backends)
        self._secret = secret
        self._by_token: dict[bytes, Backend] = {}
        self._todo = [backend for backend in backends if backend.weight or keep_drained]

    def prepare(self) -> Iterator[None]:
        """Make the tokens and build the inner selection in small steps.

        Yields:
            Nothing, about once a millisecond.
        """
        while self._todo:
            for backend in self._todo[-_SLICE:]:
                self._by_token[sticky_token(backend, self._secret)] = backend
            del self._todo[-_SLICE:]
            yield
        yield from prepared(self._inner)

    def iter(self, key: bytes) -> Iterator[Backend]:
        """Begin with the backend whose token the key is.

        Args:
            key: The token, or anything else.

        Returns:
            That backend if there is one, then those of the inner selection.
        """
        if self._todo:
            for _ in self.prepare():
                pass
        known = self._by_token.get(key)
        candidates = self._inner.iter(key)
        return candidates if known is None else chain((known,), candidates)


@final
class StickyCookie:
    """Carries the token of a backend in a cookie.

    In a proxy: ``balancer.select(cookie.key(session.req_header), 256)`` in ``upstream_peer``, and
    ``cookie.give(request, response, backend)`` in ``response_filter``.

    Args:
        name: The name of the cookie.
        secret: As for `sticky_token`, and the same as for the selection.
        attributes: What follows the value in ``Set-Cookie``. Add ``Secure`` where clients come
            by TLS, and ``Max-Age`` for sessions that outlive the browser.

    Attributes:
        name: As given.

    Examples:
        >>> from pingora_http import RequestHeader, ResponseHeader
        >>> from pingora_load_balancing import Backend
        >>> cookie = StickyCookie("route")
        >>> request, response = RequestHeader("GET", "/"), ResponseHeader(200)
        >>> cookie.give(request, response, Backend("10.0.0.2:80"))
        >>> response.get("set-cookie")
        'route=...; Path=/; HttpOnly; SameSite=Lax'
    """

    __slots__ = ("_attributes", "_secret", "name")

    def __init__(
        self,
        name: str = "lb",
        *,
        secret: bytes = b"",
        attributes: str = "Path=/; HttpOnly; SameSite=Lax",
    ) -> None:
        self.name: str = name
        self._secret = secret
        self._attributes = attributes.encode()

    def key(self, request: RequestHeader) -> bytes:
        """Read the token.

        Args:
            request: The request of the client.

        Returns:
            The value of the cookie; empty if there is none.
        """
        wanted = self.name.encode()
        for field in request.get_all_raw(b"cookie"):
            for pair in field.split(b";"):
                name, _, value = pair.strip().partition(b"=")
                if name == wanted:
                    return value
        return b""

    def give(self, request: RequestHeader, response: ResponseHeader, backend: Backend) -> None:
        """Set the cookie, unless the client has it already.

        Args:
            request: The request of the client.
            response: The response to the client.
            backend: The backend that gave it.
        """
        token = sticky_token(backend, self._secret)
        if self.key(request) != token:
            value = b"%b=%b; %b" % (self.name.encode(), token, self._attributes)
            response.append_header("Set-Cookie", value)
