"""The admin interface over HTTP: paths, methods, bodies and heads."""

from __future__ import annotations

import json
import logging
import os
import time
from typing import TYPE_CHECKING, Final, final

from pingora_core.apps.serve_http import Response, ServeHttp
from pingora_core.protocols.address import UnixAddress
from pingora_core.runtime.log_limit import LogLimit
from pingora_proxy.admin.guard import Refusal
from pingora_proxy.admin.operations import CHANGES
from pingora_proxy.admin.page import load_page

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pingora_core.protocols.http.server import ServerSession
    from pingora_proxy.admin.guard import Guard
    from pingora_proxy.admin.operations import Operations
    from pingora_proxy.admin.siblings import Answer, Siblings

__all__ = ["MAX_BODY", "AdminApp"]

_logger = logging.getLogger(__name__)

MAX_BODY: Final = 16 * 1024
"""Bytes of a request's body."""

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
_NOTHING: Final = (("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),)
_READING: Final = ("GET", "HEAD")
_METHODS: Final = {name: "PUT" if name == "log-level" else "POST" for name in CHANGES}


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
        self._views: dict[str, Callable[[], Mapping[str, object]]] = {
            "config": operations.configuration,
            "backends": operations.backends,
            "cache": operations.caches,
            "pools": operations.pools,
            "metrics.json": operations.metrics,
            "log-level": lambda: {"level": operations.log_level()},
        }

    async def response(self, session: ServerSession) -> Response:
        """Answer a request.

        Args:
            session: The request.

        Returns:
            The answer.
        """
        try:
            return await self._route(session)
        except Refusal as refusal:
            self._tell(session, refusal)
            return _json(refusal.status, {"error": refusal.message}, refusal.headers)

    async def _route(self, session: ServerSession) -> Response:
        request = session.request
        path = request.path.removeprefix("/")
        is_local = isinstance(session.server_addr, UnixAddress)
        if path in {"livez", "readyz"}:
            _check_method(request.method, _READING)
            return self._probe(path)
        if not path:
            _check_method(request.method, _READING)
            self._guard.check_page(request, is_local_socket=is_local)
            page = load_page()
            policy = ("Content-Security-Policy", page.policy)
            return Response(200, page.body, (*_HEADERS, *_PAGE_HEADERS, policy))
        self._guard.check(request, is_local_socket=is_local)
        if path in CHANGES and request.method not in _READING:
            _check_method(request.method, (_METHODS[path],))
            return _json(200, await self._change(path, await _read_json(session)))
        return await self._view(path, request.method)

    def _probe(self, path: str) -> Response:
        is_good = path == "livez" or self._operations.is_ready
        return _json(200 if is_good else 503, {"status": "ok" if is_good else "not ready"})

    async def _view(self, path: str, method: str) -> Response:
        allowed = (*_READING, "PUT") if path == "log-level" else _READING
        if path in self._views:
            _check_method(method, allowed)
            return _json(200, self._views[path]())
        if path == "workers":
            _check_method(method, allowed)
            return _json(200, {"workers": await self._workers()})
        if path == "overview":
            _check_method(method, allowed)
            return _json(200, {**self._operations.overview(), "workers": await self._workers()})
        if path in CHANGES:
            raise Refusal(405, f"{path} wants POST", ("Allow", _METHODS[path]))
        raise Refusal(404, "there is nothing here")

    # ------------------------------------------------------------------------- workers

    async def answer(self, question: Answer) -> Answer:
        """Answer another worker.

        Args:
            question: What it asks: ``{"change": ..., "arguments": ...}`` or ``{"ask": "worker"}``.

        Returns:
            The answer.
        """
        what, arguments = question.get("change"), question.get("arguments")
        if not isinstance(what, str) or not isinstance(arguments, dict):
            return self._operations.worker()
        try:
            return await self._operations.change(what, arguments)
        except Refusal as refusal:
            return {"error": refusal.message}

    async def _workers(self) -> list[Answer]:
        others = await self._siblings.ask({"ask": "worker"})
        rows = [self._operations.worker() | {"is_this": True}]
        for pid, row in others.items():
            rows.append({"pid": pid} if row is None else row)
        return sorted(rows, key=lambda row: str(row["pid"]).zfill(12))

    async def _change(self, what: str, arguments: Answer) -> Answer:
        result = await self._operations.change(what, arguments)
        others = await self._siblings.ask({"change": what, "arguments": arguments})
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
        workers = {"asked": len(others) + 1, "failed": failed, "pid": os.getpid()}
        return result | {"workers": workers}

    def _tell(self, session: ServerSession, refusal: Refusal) -> None:
        if refusal.status not in {401, 403, 421}:
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
    while (piece := await session.read_request_body()) is not None:
        body += piece
        if len(body) > MAX_BODY:
            raise Refusal(413, f"the body must not have more than {MAX_BODY} bytes")
    try:
        arguments = json.loads(body)
    except (ValueError, RecursionError):
        raise Refusal(400, "the body is no JSON") from None
    if not isinstance(arguments, dict):
        raise Refusal(400, "the body must be a JSON object")
    return arguments


def _json(
    status: int, value: Mapping[str, object], headers: tuple[tuple[str, str], ...] = ()
) -> Response:
    body = json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    return Response(status, body, (*_HEADERS, *_JSON, *_NOTHING, *headers))
