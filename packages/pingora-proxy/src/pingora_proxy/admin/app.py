"""The admin interface over HTTP: paths, methods, bodies and heads."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from functools import partial
from typing import TYPE_CHECKING, Final, final

from pingora_core.apps.serve_http import Response, ServeHttp
from pingora_core.protocols.address import InetAddress, UnixAddress
from pingora_core.runtime.log_limit import LogLimit
from pingora_proxy.admin.guard import Refusal
from pingora_proxy.admin.operations import CHANGES, PURGE_TIMEOUT
from pingora_proxy.admin.page import load_page
from pingora_proxy.admin.redaction import redact
from pingora_proxy.admin.throttle import client_key
from pingora_proxy.admin.together import together

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from pingora_core.protocols.http.server import ServerSession
    from pingora_proxy.admin.guard import Guard
    from pingora_proxy.admin.operations import Operations
    from pingora_proxy.admin.siblings import Answer, Siblings

__all__ = ["FRESH", "IO_TIMEOUT", "MAX_BODY", "AdminApp"]

_logger = logging.getLogger(__name__)

MAX_BODY: Final = 16 * 1024
"""Bytes of a request's body."""

IO_TIMEOUT: Final = 10.0
"""Seconds that a body may take in all, and one wait for a client that does not read."""

FRESH: Final = 0.5
"""Seconds for which one answer with the numbers of all workers serves everybody who asks."""

_HEADERS: Final = (
    ("Cache-Control", "no-store"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
)
_PAGE_HEADERS: Final = (
    ("Content-Type", "text/html; charset=utf-8"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("X-Frame-Options", "DENY"),
)
_JSON: Final = (("Content-Type", "application/json"),)
_PROBLEM: Final = (("Content-Type", "application/problem+json"),)
_NOTHING: Final = (("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),)
_READING: Final = ("GET", "HEAD")
_METHODS: Final = dict.fromkeys(CHANGES, ("POST",)) | {"log-level": (*_READING, "PUT")}
_SUMMARY: Final = 300


@final
class AdminApp(ServeHttp):
    """Answers the requests to the admin interface.

    Args:
        operations: What they are about.
        guard: Who may do that.
        siblings: The other workers.
    """

    def __init__(self, operations: Operations, guard: Guard, siblings: Siblings) -> None:
        self._operations = operations
        self._guard = guard
        self._siblings = siblings
        self._log_limit = LogLimit()
        self._views: dict[str, Callable[[], Awaitable[bytes]]] = {
            "overview": self._overview,
            "config": _told(operations.configuration),
            "backends": partial(self._part, "backends"),
            "cache": partial(self._part, "caches"),
            "pools": partial(self._part, "pools"),
            "workers": self._workers,
            "metrics.json": _told(operations.metrics),
            "log-level": _told(lambda: {"level": operations.log_level()}),
        }
        # The view of all workers, for as long as it is fresh, and whoever makes the next one.
        self._looking = asyncio.Lock()
        self._seen: dict[str, object] = {}
        self._encoded = b""
        self._seen_until = 0.0

    async def response(self, session: ServerSession) -> Response:
        """Answer a request.

        Args:
            session: The request.

        Returns:
            The answer.
        """
        session.write_timeout = IO_TIMEOUT
        try:
            return await self._route(session)
        except Refusal as refusal:
            self._tell(session, refusal)
            headers = (*_HEADERS, *_PROBLEM, *_NOTHING, *refusal.headers)
            return Response(refusal.status, _encode(refusal.as_problem()), headers)

    async def _route(self, session: ServerSession) -> Response:
        request = session.request
        path = request.path.removeprefix("/")
        is_local = isinstance(session.server_addr, UnixAddress)
        if path in {"livez", "readyz"}:
            _check_method(request.method, _READING)
            is_good = path == "livez" or self._operations.is_ready
            answer = {"status": "ok" if is_good else "not ready"}
            return _json(200 if is_good else 503, _encode(answer))
        if not path:
            _check_method(request.method, _READING)
            self._guard.check_page(request, is_local_socket=is_local)
            page = load_page()
            policy = ("Content-Security-Policy", page.policy)
            return Response(200, page.body, (*_HEADERS, *_PAGE_HEADERS, policy))
        address = session.client_addr
        client = client_key(address.host if isinstance(address, InetAddress) else "")
        now = time.monotonic()
        self._guard.check(request, is_local_socket=is_local, client=client, now=now)
        if path not in self._views and path not in CHANGES:
            raise Refusal(404, "there is nothing here")
        _check_method(request.method, _METHODS.get(path, _READING))
        if request.method not in _READING:
            return _json(200, _encode(await self._change(path, await _read_json(session), session)))
        return _json(200, await self._views[path]())

    # ------------------------------------------------------------------------- workers

    async def begin(self) -> None:
        """Decide as the other workers have: this one may have taken the place of another."""
        for answer in (await self._siblings.ask({"ask": "decisions"})).values():
            if answer is not None:
                self._operations.adopt(answer.get("decisions"))

    async def answer(self, question: Answer) -> Answer:
        """Answer another worker.

        Args:
            question: What it asks: ``{"change": ..., "arguments": ..., "stamp": ...}``, or
                ``{"ask": "view"}``, or ``{"ask": "decisions"}``.

        Returns:
            The answer.
        """
        match question:
            case {"change": str(what), "arguments": dict(arguments), "stamp": int(stamp)}:
                self._seen_until = 0.0
                try:
                    return await self._operations.change(what, arguments, stamp, is_passed_on=True)
                except Refusal as refusal:
                    return {"error": refusal.message}
            case {"ask": "decisions"}:
                return {"decisions": self._operations.decisions()}
            case _:
                return self._operations.view()

    async def _look(self) -> None:
        # However many ask: the workers are asked, and the metrics added up, twice a second at most.
        async with self._looking:
            if time.monotonic() < self._seen_until:
                return
            others = await self._siblings.ask({"ask": "view"})
            own = self._operations.view()
            rows = [_row(own) | {"is_this": True}]
            for pid, view in others.items():
                rows.append({"pid": pid} if view is None else _row(view))
            views = [own, *(view for view in others.values() if view is not None)]
            self._seen = {
                **self._operations.overview(),
                **together(views, self._operations.shared_caches),
                "refused": self._guard.refused,
                "workers": sorted(rows, key=lambda row: str(row.get("pid")).zfill(12)),
            }
            self._encoded = _encode(self._seen)
            self._seen_until = time.monotonic() + FRESH

    async def _overview(self) -> bytes:
        await self._look()
        return self._encoded

    async def _part(self, name: str) -> bytes:
        await self._look()
        return _encode(self._seen[name])

    async def _workers(self) -> bytes:
        await self._look()
        return _encode({"workers": self._seen["workers"]})

    async def _change(self, what: str, arguments: Answer, session: ServerSession) -> Answer:
        stamp = self._operations.stamp()
        try:
            result = await self._operations.change(what, arguments, stamp)
        except Refusal as refusal:
            _audit(session, what, arguments, refusal.message)
            raise
        self._seen_until = 0.0
        question: Answer = {"change": what, "arguments": arguments, "stamp": stamp}
        others = await self._siblings.ask(question, timeout=PURGE_TIMEOUT + 1.0)
        failed = {
            str(pid): "no answer" if answer is None else answer["error"]
            for pid, answer in others.items()
            if answer is None or "error" in answer
        }
        purged = [result, *(answer for answer in others.values() if answer is not None)]
        counts = [each["purged"] for each in purged if isinstance(each.get("purged"), int)]
        if counts:
            # A store of each worker's own, or one that they share: what one removes the others miss.
            result["purged"] = sum(count for count in counts if isinstance(count, int))
        _audit(session, what, arguments, f"done, but for workers {failed}" if failed else "done")
        workers = {"asked": len(others) + 1, "failed": failed, "pid": os.getpid()}
        return result | {"workers": workers}

    def _tell(self, session: ServerSession, refusal: Refusal) -> None:
        if refusal.status not in {401, 403, 421, 429}:
            return
        swallowed = self._log_limit.admit(time.monotonic())
        if swallowed is not None:
            _logger.warning(
                "admin interface: refused %s from %s: %s (%d more since the last line)",
                session.request_summary(),
                session.client_addr,
                refusal.message,
                swallowed,
            )


def _check_method(method: str, allowed: tuple[str, ...]) -> None:
    if method not in allowed:
        raise Refusal(405, f"{method} is not allowed here", ("Allow", ", ".join(allowed)))


async def _read_json(session: ServerSession) -> Answer:
    request = session.request
    kind = (request.get("content-type") or "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refusal(415, "the body must be application/json")
    body = bytearray()
    try:
        async with asyncio.timeout(IO_TIMEOUT):
            while (piece := await session.read_request_body()) is not None:
                body += piece
                if len(body) > MAX_BODY:
                    raise Refusal(413, f"the body must not have more than {MAX_BODY} bytes")
    except TimeoutError:
        raise Refusal(408, f"the body took more than {IO_TIMEOUT:g} seconds") from None
    try:
        arguments = json.loads(body.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise Refusal(400, "the body is no JSON, or says something twice") from None
    if not isinstance(arguments, dict):
        raise Refusal(400, "the body must be a JSON object")
    return arguments


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _row(view: Answer) -> Answer:
    row = view.get("worker")
    return row if isinstance(row, dict) else {}


def _audit(session: ServerSession, what: str, arguments: Answer, outcome: str) -> None:
    # Before anything else: who it was, and what.
    said = json.dumps(redact(arguments))[:_SUMMARY]
    _logger.warning("admin interface: %s %s from %s: %s", what, said, session.client_addr, outcome)


def _told(tell: Callable[[], Mapping[str, object]]) -> Callable[[], Awaitable[bytes]]:
    async def told() -> bytes:
        return _encode(tell())

    return told


def _encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def _json(status: int, body: bytes) -> Response:
    return Response(status, body, (*_HEADERS, *_JSON, *_NOTHING))
