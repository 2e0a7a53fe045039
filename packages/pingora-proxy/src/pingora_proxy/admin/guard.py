"""Who may use the admin interface: the rules, without any I/O.

Theory of operation. A dashboard on a loopback address is within reach of every web page that its
user visits, because browsers send requests to such addresses on behalf of any site. Four rules see to it
that such a request fails, each of them sufficient against most attacks:

- *Host*: it must be an address, ``localhost`` or a name that was allowed. A site that lets its own
  name resolve to 127.0.0.1 (DNS rebinding) is told apart by its name.
- *Origin* and *Sec-Fetch-Site*: a browser says which site a request is from; only this one is served.
  There is no CORS: what another site asks in advance (OPTIONS) it is refused.
- *Content-Type*: what changes something must be JSON, which another site cannot send unasked.
- *Token*: it is compared in constant time, tried so often only (`Throttle`), and lives in no cookie,
  which a browser would add by itself.

Whether the process is alive and ready may be asked by everybody: it is for probes, and says nothing
else. The page itself is no secret either; what it shows is.
"""

from __future__ import annotations

import hmac
import math
from hashlib import sha256
from http import HTTPStatus
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from pingora_proxy.admin.throttle import Throttle

if TYPE_CHECKING:
    from collections.abc import Collection

    from pingora_http import RequestHeader

__all__ = ["Guard", "Refusal", "host_name", "is_loopback_name"]

_SCHEME: Final = "bearer"
_SAME_SITE: Final = frozenset({"same-origin", "none"})


class Refusal(Exception):  # noqa: N818 - an answer, not a fault of the program
    """Why a request is not carried out, as the client is told.

    Args:
        status: The status of the answer.
        message: One sentence.
        headers: Fields of the answer.

    Attributes:
        status: As given.
        message: As given.
        headers: As given.
    """

    def __init__(self, status: int, message: str, *headers: tuple[str, str]) -> None:
        super().__init__(message)
        self.status: int = status
        self.message: str = message
        self.headers: tuple[tuple[str, str], ...] = headers

    def as_problem(self) -> dict[str, object]:
        """Tell it as RFC 9457 wants it.

        Returns:
            The problem, for ``application/problem+json``.
        """
        title = HTTPStatus(self.status).phrase
        return {"title": title, "status": self.status, "detail": self.message}


class Guard:
    """Lets requests pass, or refuses them.

    Args:
        token: What clients must know; None asks for nothing.
        allowed_hosts: Names under which the interface is reached, beside addresses and localhost.

    Attributes:
        refused: How many requests were refused.
    """

    __slots__ = ("_allowed_hosts", "_throttle", "_token", "refused")

    def __init__(self, token: str | None, allowed_hosts: Collection[str] = ()) -> None:
        self._allowed_hosts = frozenset(name.lower().rstrip(".") for name in allowed_hosts)
        self._token = None if token is None else _digest(token)
        self._throttle = Throttle()
        self.refused: int = 0

    @property
    def asks_for_token(self) -> bool:
        """Whether there is a token."""
        return self._token is not None

    def set_token(self, token: str | None) -> None:
        """Ask for another token from now on.

        Args:
            token: It; None asks for none.
        """
        self._token = None if token is None else _digest(token)

    def check_page(self, request: RequestHeader, *, is_local_socket: bool) -> None:
        """Check a request for the page, which has no data in it and may be linked to.

        Args:
            request: Its head.
            is_local_socket: Whether it came over a Unix socket, which no browser can use.

        Raises:
            Refusal: If it is not to be answered.
        """
        if not is_local_socket:
            self._check_host(request)

    def check(
        self, request: RequestHeader, *, is_local_socket: bool, client: str = "", now: float = 0.0
    ) -> None:
        """Check a request for data, or for a change.

        Args:
            request: Its head.
            is_local_socket: Whether it came over a Unix socket.
            client: Who sends it, as ``client_key`` says.
            now: A clock that never goes back, seconds.

        Raises:
            Refusal: If it is not to be answered.
        """
        if not is_local_socket:
            self._check_host(request)
        self._check_site(request)
        self._check_token(request, client, now)

    def _check_host(self, request: RequestHeader) -> None:
        name = host_name(_authority(request))
        if not (is_loopback_name(name) or _is_address(name) or name in self._allowed_hosts):
            raise self._refuse(421, f"the host {name!r} is not served here; see allowed_hosts")

    def _check_site(self, request: RequestHeader) -> None:
        origin = request.get("origin")
        if origin is not None:
            scheme, _, authority = origin.partition("://")
            is_ours = authority.lower() == _authority(request).lower()
            if scheme not in {"http", "https"} or not authority or not is_ours:
                raise self._refuse(403, "requests of other sites are refused")
        site = request.get("sec-fetch-site")
        if site is not None and site not in _SAME_SITE:
            raise self._refuse(403, "requests of other sites are refused")

    def _check_token(self, request: RequestHeader, client: str, now: float) -> None:
        if self._token is None:
            return
        given = request.get("authorization")
        if given is None:
            challenge = ("WWW-Authenticate", 'Bearer realm="pingora admin"')
            raise self._refuse(401, "a token is needed", challenge)
        wait = math.ceil(self._throttle.wait(client, now))
        if wait > 0:
            again = ("Retry-After", str(wait))
            raise self._refuse(429, f"too many wrong tokens; wait {wait} seconds", again)
        scheme, _, token = given.partition(" ")
        # Digests: comparing texts would tell the length.
        is_right = hmac.compare_digest(_digest(token.strip()), self._token)
        if scheme.lower() != _SCHEME or not is_right:
            self._throttle.fail(client, now)
            challenge = (
                "WWW-Authenticate",
                'Bearer realm="pingora admin", error="invalid_token"',
            )
            raise self._refuse(401, "this is not the token", challenge)

    def _refuse(self, status: int, message: str, *headers: tuple[str, str]) -> Refusal:
        self.refused += 1
        return Refusal(status, message, *headers)


def host_name(authority: str) -> str:
    """Take the name or address out of a ``Host``.

    Args:
        authority: Its value.

    Returns:
        It in lower case, without port, brackets and the dot at the end.
    """
    if authority.startswith("["):
        return authority[1:].partition("]")[0].lower()
    return authority.partition(":")[0].lower().rstrip(".")


def is_loopback_name(name: str) -> bool:
    """Tell whether a name or an address can only mean this machine.

    Args:
        name: As ``host_name`` returns it.

    Returns:
        Whether it does. Browsers resolve ``localhost`` themselves (RFC 6761 section 6.3).
    """
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _authority(request: RequestHeader) -> str:
    return request.authority or request.get("host") or ""


def _digest(token: str) -> bytes:
    return sha256(token.encode("latin-1", "replace")).digest()
