"""A line for every request: access logs in JSON or in the combined format.

Theory of operation: an observer makes one line at the end of each request, whatever the end, and
puts it into a queue that never waits; a thread writes it. What does not fit is dropped and counted.

What is secret does not belong into logs: of certain parameters only the names are kept, in queries
and in URLs that fields hold, and of fields those are logged that were asked for, credentials never.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from msgspec.json import Encoder

from pingora_core.apps.metrics import log_queue_source
from pingora_core.server.logs import on_reopen
from pingora_http import Version
from pingora_proxy._log_text import combined_line, cut, printable, readable, redact
from pingora_proxy.observe import ProxyObserver

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from pingora_core.metrics import Reading
    from pingora_core.runtime.log_sinks import LogQueue
    from pingora_error import Error
    from pingora_http import ResponseHeader
    from pingora_proxy.request_record import AttemptRecord, RequestRecord
    from pingora_proxy.session import Session

    # Method, whether over TLS, host, path, version, status.
    _Request: TypeAlias = tuple[bytes, bool, bytes, bytes, Version, int]

__all__ = ["SECRET_FIELDS", "SECRET_PARAMETERS", "AccessLog"]

SECRET_FIELDS: Final = frozenset(
    {
        "authorization",
        "cookie",
        "proxy-authorization",
        "set-cookie",
        "x-api-key",
        "x-auth-token",
        "x-csrf-token",
    }
)
"""Header fields that are logged as ``***`` even when they are asked for."""

SECRET_PARAMETERS: Final = frozenset(
    {
        "access_token",
        "api_key",
        "apikey",
        "auth",
        "client_secret",
        "code",
        "id_token",
        "key",
        "password",
        "refresh_token",
        "secret",
        "sig",
        "signature",
        "token",
        "x-amz-signature",
    }
)
"""Query parameters whose values are logged as ``***``."""

_HIDDEN: Final = "***"
_PROTOCOLS: Final = {version: str(version).encode() for version in Version}
_LINE: Final = (
    b'{"time":%b.%06d,"client":%b,%b,"request_bytes":%d,"response_bytes":%d,"duration":%.6f%b'
)
_REQUEST: Final = b'"method":%b,"scheme":"%b","host":%b,"path":%b,"protocol":"%b","status":%d'
# Of the connection that every second request has, and of any other.
_REUSED: Final = (
    b',"attempts":%d,"upstream":{"address":%b,"status":%d,"reused":true,"connect":0.000000'
)
_UPSTREAM: Final = b'%b,"wait":%.6f,"duration":%.6f}'
# Texts that are remembered, and the longest of them.
_MAX_TEXTS: Final = 4096
_MAX_TEXT: Final = 256


class AccessLog(ProxyObserver):
    """Writes access logs; given to ``http_proxy_service(..., observers=[...])``.

    Args:
        queue: Where the lines go; closed with :meth:`close`.
        format: ``"json"``: an object in each line, with the fields of ``docs/how-to/access-logs``;
            ``"combined"``: as Apache and nginx write it.
        sample: The share of requests to log, 0 to 1. Those that failed, and those answered with a
            5xx, are always logged.
        headers: Names of request fields to log besides (JSON only).
        response_headers: Names of response fields to log besides (JSON only).
        secret_fields: Fields never to be logged, in lower case.
        secret_parameters: Query parameters whose values are never logged, in lower case.
        choose: A number from 0 to 1 for each request, which ``sample`` is compared with.

    Raises:
        ValueError: If ``sample`` is no share.
    """

    is_patient = True

    def __init__(
        self,
        queue: LogQueue,
        *,
        format: Literal["json", "combined"] = "json",  # noqa: A002 - what it is called everywhere
        sample: float = 1.0,
        headers: Collection[str] = ("User-Agent", "Referer"),
        response_headers: Collection[str] = (),
        secret_fields: Collection[str] = SECRET_FIELDS,
        secret_parameters: Collection[str] = SECRET_PARAMETERS,
        choose: Callable[[], float] = random.random,  # noqa: S311 - it decides about log lines
    ) -> None:
        if not 0.0 <= sample <= 1.0:
            msg = f"a share of requests lies between 0 and 1, not at {sample}"
            raise ValueError(msg)
        self.queue: LogQueue = queue
        self._is_json = format == "json"
        self._sample = sample
        self._headers = _named(headers, secret_fields)
        self._response_headers = _named(response_headers, secret_fields)
        self._secret_parameters = frozenset(name.encode() for name in secret_parameters)
        self._choose = choose
        self._encode = Encoder().encode
        self._requests: dict[_Request, bytes] = {}
        self._addresses: dict[int, tuple[object, bytes]] = {}
        self._upstreams: dict[tuple[int, int, int | None], tuple[object, bytes]] = {}
        self._second = 0
        self._second_text = b"0"
        self._forget = on_reopen(queue.reopen)

    async def cleanup(self) -> None:
        """Write what waits, and close the queue; the service calls this after its last request."""
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Write what waits, and close the queue: for those who observe nothing with it."""
        self._forget()
        self.queue.close()

    def read_metrics(self, service: str) -> Iterable[Reading]:
        """Tell what became of the lines.

        Args:
            service: Value of the label ``log``.

        Returns:
            The numbers.
        """
        return log_queue_source(self.queue, service)()

    def request_ended(self, session: Session, error: Error | None) -> None:
        """Log a request. HOT.

        Args:
            session: The request.
            error: Why it failed; None if it did not.
        """
        record = session.record
        if record is None or record.ended is None:
            return
        response = record.response
        status = 0 if response is None else response.status
        if self._sample < 1.0 and error is None and status < 500 and self._choose() >= self._sample:
            return
        if self._is_json:
            self.queue.put(self._line(session, record, status, error))
        else:
            self.queue.put(combined_line(session, status, self._secret_parameters))

    def _line(
        self, session: Session, record: RequestRecord, status: int, error: Error | None
    ) -> bytes:
        # What every line has is put into templates, and texts that come again are remembered: that
        # takes half the time of an object that is encoded as a whole.
        down = session.downstream_session
        request = down.request
        path = request.raw_target
        query = b""
        if b"?" in path:
            path, _, query = path.partition(b"?")
        fields = request.first_values()
        digest = down.digest
        key = (
            request.raw_method,
            digest.ssl_digest is not None,
            fields.get(b"host", b""),
            path,
            request.version,
            status,
        )
        started_at = record.started_at
        if not 0.0 <= (fraction := started_at - self._second) < 1.0:
            self._second = int(started_at)
            self._second_text = b"%d" % self._second
            fraction = started_at - self._second
        socket = digest.socket_digest
        line = _LINE % (
            self._second_text,
            fraction * 1e6,
            self._address(None if socket is None else socket.peer_addr),
            self._requests.get(key) or self._request(key),
            record.request_bytes,
            record.response_bytes,
            (record.ended or 0.0) - record.started,
            self._upstream(record.attempts) if record.attempts else b"",
        )
        facts: dict[str, object] = {}
        if query:
            facts["query"] = self._visible(query)
        if session.route is not None:
            facts["route"] = readable(session.route)
        if error is not None or session.active_cache is not None or session.shutdown_note:
            self._add_facts(facts, session, error)
        for name, title, is_secret in self._headers:
            if name in fields:
                facts[title] = _HIDDEN if is_secret else self._visible(fields[name])
        if self._response_headers and record.response is not None:
            self._add_response(facts, record.response)
        return b"%b,%b" % (line, self._encode(facts)[1:]) if facts else line + b"}"

    def _request(self, key: _Request) -> bytes:
        method, is_tls, host, path, version, status = key
        text = _REQUEST % (
            self._text(method),
            b"https" if is_tls else b"http",
            self._text(host),
            self._text(path if path[:1] == b"/" else redact(path, ())),
            _PROTOCOLS[version],
            status,
        )
        if len(self._requests) >= _MAX_TEXTS:
            self._requests.clear()
        if len(text) <= 2 * _MAX_TEXT and len(path) <= _MAX_TEXT:
            self._requests[key] = text
        return text

    def _text(self, raw: bytes) -> bytes:
        return self._encode(printable(cut(raw)))

    def _address(self, address: object) -> bytes:
        # By identity: to hash an address takes longer than to write it.
        known = self._addresses.get(id(address))
        if known is not None and known[0] is address:
            return known[1]
        text = self._encode(None if address is None else str(address))
        if len(self._addresses) >= _MAX_TEXTS:
            self._addresses.clear()
        self._addresses[id(address)] = address, text
        return text

    def _upstream(self, attempts: list[AttemptRecord]) -> bytes:
        attempt = attempts[-1]
        head, ended = attempt.head, attempt.ended
        if not attempt.reused or head is None or ended is None or attempt.error is not None:
            return self._any_upstream(attempt, len(attempts))
        address = attempt.peer.address
        key = (id(address), len(attempts), attempt.status)
        known = self._upstreams.get(key)
        if known is None or known[0] is not address:
            text = _REUSED % (len(attempts), self._address(address), attempt.status)
            known = address, text
            if len(self._upstreams) >= _MAX_TEXTS:
                self._upstreams.clear()
            self._upstreams[key] = known
        started = attempt.started
        return _UPSTREAM % (known[1], head - started, ended - started)

    def _any_upstream(self, attempt: AttemptRecord, count: int) -> bytes:
        connected, head = attempt.connected, attempt.head
        line = b',"attempts":%d,"upstream":{"address":%b' % (
            count,
            self._address(attempt.peer.address),
        )
        if attempt.status is not None:
            line += b',"status":%d' % attempt.status
        if connected is not None:
            reused = b"true" if attempt.reused else b"false"
            line += b',"reused":%b,"connect":%.6f' % (reused, connected - attempt.started)
            if head is not None:
                line += b',"wait":%.6f' % (head - connected)
        if attempt.ended is not None:
            line += b',"duration":%.6f' % (attempt.ended - attempt.started)
        if attempt.error is not None:
            line += b',"error":%b' % self._encode(readable(str(attempt.error.etype)))
        return line + b"}"

    def _add_facts(self, facts: dict[str, object], session: Session, error: Error | None) -> None:
        # What few lines have.
        cache = session.active_cache
        if cache is not None:
            facts["cache"] = cache.phase.value
            if cache.no_cache_reason is not None:
                facts["cache_reason"] = str(cache.no_cache_reason)
        if error is not None:
            facts["error"] = readable(str(error))
            facts["error_type"] = readable(str(error.etype))
            if session.record is not None:
                facts["phase"] = session.record.failed_in
        if session.shutdown_note is not None:
            facts["note"] = readable(session.shutdown_note)

    def _visible(self, raw: bytes) -> str:
        return printable(redact(cut(raw), self._secret_parameters))

    def _add_response(self, facts: dict[str, object], response: ResponseHeader) -> None:
        for key, name, is_secret in self._response_headers:
            value = response.get_raw(key)
            if value is not None:
                facts[f"response_{name}"] = _HIDDEN if is_secret else self._visible(value)


def _named(names: Collection[str], secret: Collection[str]) -> list[tuple[bytes, str, bool]]:
    # The name on the wire, the name in the log, and whether the value is hidden.
    return [
        (name.lower().encode(), name.lower().replace("-", "_"), name.lower() in secret)
        for name in names
    ]
