"""Backends from an HTTP endpoint that answers with JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_load_balancing.discovery._document import parse_document
from pingora_load_balancing.discovery._http_client import HttpClient, off_the_loop
from pingora_load_balancing.discovery._http_response import refuse_status
from pingora_load_balancing.discovery.access import HttpAccess
from pingora_load_balancing.discovery.interfaces import refuse
from pingora_load_balancing.discovery.source import Source

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_load_balancing.discovery.interfaces import Discovered
    from pingora_load_balancing.discovery.source import SourceOptions

__all__ = ["HttpDiscovery"]


class HttpDiscovery(Source):
    """Backends from a URL, asked for in intervals; an answer that has not changed is not sent again.

    The answer is JSON of the form that `FileDiscovery` reads; keys that are not known are ignored.
    One with an ``ETag`` is asked for with ``If-None-Match`` from then on. Certificates are
    verified, redirects are not followed.

    Args:
        url: ``http://host[:port]/path``, ``https://...``, or ``unix:/socket:/path`` for a
            Unix socket.
        interval: Seconds from one question to the next while it is watched, plus or minus the
            jitter of the options.
        parse: Makes sense of another form of answer; may be called in another thread.
        metadata_type: A dataclass, msgspec structure or other type that the metadata of each
            backend is converted to; None to keep it as it is.
        access: Names, secrets, whom to trust, deadlines.
        options: Which answers are believed, and who hears of failures.

    Raises:
        ValueError: If the URL is none, or a time is not positive.
    """

    def __init__(
        self,
        url: str,
        *,
        interval: float = 10.0,
        parse: Callable[[bytes], Discovered] | None = None,
        metadata_type: type | None = None,
        access: HttpAccess | None = None,
        options: SourceOptions | None = None,
    ) -> None:
        super().__init__(interval=interval, options=options)
        self._client = HttpClient(url, HttpAccess() if access is None else access)
        self._given_parse = parse
        self._metadata_type = metadata_type
        # The last answer that made sense, and its name.
        self._known: tuple[str, Discovered] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._client.url}>"

    async def close(self) -> None:
        """Close the connection that idles. Asking again makes another one."""
        await self._client.close()

    async def _ask(self) -> Discovered:
        client = self._client
        known = self._known
        headers = () if known is None else (("If-None-Match", known[0]),)
        answer = await client.get(client.target, max_bytes=self.options.max_bytes, headers=headers)
        if answer.status == 304 and known is not None:
            return known[1]
        if answer.status != 200:
            refuse_status(answer.status, f"GET {client.url}")
        try:
            found = await off_the_loop(self._parse, answer.body)
        except Exception as error:  # noqa: BLE001  # a parser of the user's may raise anything
            self._known = None
            refuse(f"GET {client.url}", error)
        tag = answer.header.get("ETag")
        self._known = None if tag is None else (tag, found)
        return found

    def _parse(self, body: bytes) -> Discovered:
        if self._given_parse is not None:
            return self._given_parse(body)
        return parse_document(
            body,
            "json",
            max_backends=self.options.max_backends,
            metadata_type=self._metadata_type,
            strict=False,
        )
