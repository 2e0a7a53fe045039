"""A line for every request: access logs in JSON or in the combined format.

Theory of operation: an observer makes one line at the end of each request, whatever the end, and
puts it into a queue that never waits; a thread writes it. What does not fit is dropped and counted.

What is secret does not belong into logs: of the query only the names of certain parameters are
kept, and of header fields those are logged that were asked for, credentials never.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Final, Literal

from msgspec.json import Encoder

from pingora_core.server.logs import on_reopen
from pingora_http import Version
from pingora_proxy._log_text import combined_line, printable, redact_query
from pingora_proxy.observe import ProxyObserver

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from pingora_core.runtime.log_sinks import LogQueue
    from pingora_error import Error
    from pingora_proxy.request_record import AttemptRecord
    from pingora_proxy.session import Session

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
_TEMPLATE: Final = (
    b'{"time":%.6f,"client":%b,"method":%b,"scheme":"%b","host":%b,"path":%b,"protocol":"%b",'
    b'"status":%d,"request_bytes":%d,"response_bytes":%d'
)
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
        self._texts: dict[bytes, bytes] = {}
        self._addresses: dict[int, tuple[object, bytes]] = {}
        self._forget = on_reopen(queue.reopen)

    def close(self) -> None:
        """Write what waits, and close the queue."""
        self._forget()
        self.queue.close()

    def request_ended(self, session: Session, error: Error | None) -> None:
        """Log a request.

        Args:
            session: The request.
            error: Why it failed; None if it did not.
        """
        response = session.response_written
        status = 0 if response is None else response.status
        if self._sample < 1.0 and error is None and status < 500 and self._choose() >= self._sample:
            return
        if self._is_json:
            self.queue.put(self._line(session, status, error))
        else:
            self.queue.put(combined_line(session, status, self._secret_parameters))

    def _line(self, session: Session, status: int, error: Error | None) -> bytes:
        # What every line has is put into a template, and texts that come again are remembered: that
        # takes half the time of an object that is encoded as a whole.
        down = session.downstream_session
        request = down.request
        record = session.record
        path, _, query = request.raw_target.partition(b"?")
        line = _TEMPLATE % (
            time.time() if record is None else record.started_at,
            self._address(down.client_addr),
            self._text(request.raw_method),
            session.scheme.encode(),
            self._text(request.get_raw(b"host") or b""),
            self._text(path),
            _PROTOCOLS[request.version],
            status,
            down.body_bytes_read,
            down.body_bytes_sent,
        )
        if record is not None and record.ended is not None:
            line += b',"duration":%.6f' % (record.ended - record.started)
            if record.attempts:
                line += b',"attempts":%d,"upstream":' % len(record.attempts)
                line += self._upstream(record.attempts[-1])
        facts = self._facts(session, query, error)
        return b"%b,%b" % (line, self._encode(facts)[1:]) if facts else line + b"}"

    def _text(self, raw: bytes) -> bytes:
        text = self._texts.get(raw)
        if text is None:
            text = self._encode(printable(raw))
            if len(self._texts) >= _MAX_TEXTS:
                self._texts.clear()
            if len(raw) <= _MAX_TEXT:
                self._texts[raw] = text
        return text

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

    def _upstream(self, attempt: AttemptRecord) -> bytes:
        line = b'{"address":%b' % self._address(attempt.peer.address)
        if attempt.status is not None:
            line += b',"status":%d' % attempt.status
        if attempt.connected is not None:
            reused = b"true" if attempt.reused else b"false"
            taken = attempt.connected - attempt.started
            line += b',"reused":%b,"connect":%.6f' % (reused, taken)
            if attempt.head is not None:
                line += b',"wait":%.6f' % (attempt.head - attempt.connected)
        if attempt.ended is not None:
            line += b',"duration":%.6f' % (attempt.ended - attempt.started)
        if attempt.error is not None:
            line += b',"error":%b' % self._encode(str(attempt.error.etype))
        return line + b"}"

    def _facts(self, session: Session, query: bytes, error: Error | None) -> dict[str, object]:
        # What not every line has.
        facts: dict[str, object] = {}
        if query:
            facts["query"] = printable(redact_query(query, self._secret_parameters))
        if session.route is not None:
            facts["route"] = session.route
        cache = session.active_cache
        if cache is not None:
            facts["cache"] = cache.phase.value
            if cache.no_cache_reason is not None:
                facts["cache_reason"] = str(cache.no_cache_reason)
        if error is not None:
            facts["error"] = str(error)
            facts["error_type"] = str(error.etype)
            if session.record is not None:
                facts["phase"] = session.record.failed_in
        if session.shutdown_note is not None:
            facts["note"] = session.shutdown_note
        self._add_fields(facts, session)
        return facts

    def _add_fields(self, facts: dict[str, object], session: Session) -> None:
        request = session.downstream_session.request
        for key, name, is_secret in self._headers:
            value = request.get_raw(key)
            if value is not None:
                facts[name] = _HIDDEN if is_secret else printable(value)
        response = session.response_written
        if response is None:
            return
        for key, name, is_secret in self._response_headers:
            value = response.get_raw(key)
            if value is not None:
                facts[f"response_{name}"] = _HIDDEN if is_secret else printable(value)


def _named(names: Collection[str], secret: Collection[str]) -> list[tuple[bytes, str, bool]]:
    # The name on the wire, the name in the log, and whether the value is hidden.
    return [
        (name.lower().encode(), name.lower().replace("-", "_"), name.lower() in secret)
        for name in names
    ]
