"""What can be asked of a process, and changed in it, apart from how one is told to."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import time
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar, final, get_args

from pingora_core.metrics import WorkerMetrics
from pingora_core.runtime.counters import COUNTERS
from pingora_error import Error
from pingora_proxy._version import __version__
from pingora_proxy.admin.backends import PoolBackends
from pingora_proxy.admin.decisions import Decision, Decisions
from pingora_proxy.admin.guard import Refusal
from pingora_proxy.admin.redaction import redact, visible
from pingora_proxy.admin.sources import BackendAction
from pingora_proxy.admin.traffic import all_numbers, ends_of, traffic_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from pingora_core.conf import ServerConf
    from pingora_proxy.admin.sources import (
        BackendSource,
        CacheSource,
        MetricsSource,
        ProxyView,
        ServerView,
    )

__all__ = ["CHANGES", "LEVELS", "PURGE_TIMEOUT", "Operations"]

_logger = logging.getLogger(__name__)

_S = TypeVar("_S")

LEVELS: Final = ("critical", "error", "warning", "info", "debug")
"""How much can be logged, from little to much."""

CHANGES: Final = {
    **{f"backends/{action}": {"pool", "address"} for action in get_args(BackendAction)},
    "cache/purge": {"cache", "url", "tag", "soft"},
    "log-level": {"level"},
}
"""What can be changed, and what may be said about it."""

PURGE_TIMEOUT: Final = 10.0
"""Seconds that a store may take for a purge."""

_STATM: Final = Path("/proc/self/statm")
_MAX_TEXT: Final = 8192


@final
class Operations:
    """Looks at one process and changes things in it.

    Args:
        server: The server.
        metrics: Where the numbers are; None if there are none.
        backends: Backends, by a name of the program's own.
        caches: Caches, by name.
        proxies: Proxies whose connections are shown, by name.
        ready_backends: Names of backends without which the process is not ready.
        show_config: Parts of the application's own configuration that may be shown.
        clock: Time that never jumps, seconds.
        stamps: Time that all processes of the machine share, nanoseconds.
    """

    def __init__(  # noqa: PLR0913 - a record of choices
        self,
        server: ServerView,
        *,
        metrics: MetricsSource | None,
        backends: Mapping[str, BackendSource],
        caches: Mapping[str, CacheSource],
        proxies: Mapping[str, ProxyView],
        ready_backends: Collection[str] = (),
        show_config: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
        stamps: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._server = server
        self._metrics = metrics
        self._backends = backends
        self._caches = caches
        self._proxies = proxies
        self._ready_backends = tuple(ready_backends)
        self._show_config = tuple(show_config)
        self._clock = clock
        self._stamps = stamps
        self._started = clock()
        self._decisions = Decisions()

    def begin(self) -> None:
        """Begin to serve in this process: a worker, some time after the program."""
        self._started = self._clock()
        if isinstance(self._metrics, WorkerMetrics):
            self._metrics.start()

    def end(self) -> None:
        """Let the other workers see what was counted up to the end."""
        if isinstance(self._metrics, WorkerMetrics):
            self._metrics.publish()

    # ------------------------------------------------------------------------- looking

    @property
    def is_ready(self) -> bool:
        """Whether new work should be sent here."""
        return self._server.is_ready and not self.missing()

    def missing(self) -> list[str]:
        """Tell what keeps the process from being ready, apart from the server.

        Returns:
            The names of pools that must have a backend that is ready, and have none.
        """
        return [
            name
            for name in self._ready_backends
            if not any(row["is_ready"] for row in self._backends[name].rows())
        ]

    def overview(self) -> dict[str, object]:
        """Tell what the page shows of the server, apart from what each worker sees itself.

        Returns:
            It, for JSON.
        """
        families = None if self._metrics is None else self._metrics.collect()
        return {
            "version": __version__,
            "time": self._clock(),
            "pid": os.getpid(),
            "is_ready": self.is_ready,
            "missing": self.missing(),
            "phase": str(self._server.phase),
            "worker_count": self._server.configuration.worker_count,
            "worker_ends": {} if families is None else ends_of(families),
            "is_of_all_workers": isinstance(self._metrics, WorkerMetrics),
            "traffic": None if families is None else traffic_of(families),
            "log_level": self.log_level(),
        }

    def configuration(self) -> dict[str, object]:
        """Tell what the server runs with, without secrets.

        Returns:
            It, for JSON.
        """
        conf = self._server.configuration
        return {
            "source": conf.source,
            "worker_count": conf.worker_count,
            "values": redact(
                {
                    each.name: getattr(conf, each.name)
                    for each in fields(conf)
                    if each.name != "extra"
                }
            ),
            "application": visible(conf.extra, self._show_config),
        }

    @property
    def shared_caches(self) -> list[str]:
        """The names of caches whose store the workers have in common."""
        return [name for name, source in self._caches.items() if source.is_shared]

    def view(self) -> dict[str, object]:
        """Tell what this process sees.

        Returns:
            Its row of the table of workers, its backends, caches and connections to upstreams.
        """
        pools: dict[str, object] = {}
        for name, proxy in self._proxies.items():
            connector = proxy.connector
            pools[name] = {
                "http1_idle": connector.transport.idle_count,
                "http2_connections": len(connector.http2.pool),
                "http2_idle": connector.http2.pool.idle_count,
            }
        return {
            "worker": self.worker(),
            "backends": {name: list(source.rows()) for name, source in self._backends.items()},
            "caches": {name: source.stats() for name, source in self._caches.items()},
            "pools": pools,
        }

    def metrics(self) -> dict[str, object]:
        """Tell all numbers.

        Returns:
            They by name.
        """
        return {} if self._metrics is None else all_numbers(self._metrics.collect())

    def worker(self) -> dict[str, object]:
        """Tell about this process.

        Returns:
            A row of the table of workers.
        """
        return {
            "pid": os.getpid(),
            "is_ready": self.is_ready,
            "uptime": self._clock() - self._started,
            "requests": COUNTERS.requests,
            "cpu": time.process_time(),
            "memory": _resident_memory(),
        }

    def log_level(self) -> str:
        """Tell how much is logged.

        Returns:
            The level of the root logger, in lower case.
        """
        return logging.getLevelName(logging.getLogger().level).lower()

    # ------------------------------------------------------------------------ changing

    def stamp(self) -> int:
        """Tell the moment of a decision, for all workers.

        Returns:
            Nanoseconds.
        """
        return self._stamps()

    async def change(
        self,
        what: str,
        arguments: Mapping[str, object],
        stamp: int | None = None,
        *,
        is_passed_on: bool = False,
    ) -> dict[str, object]:
        """Change something, in this process.

        Args:
            what: One of `CHANGES`.
            arguments: What was said about it.
            stamp: When, as `stamp` told the worker that was asked first; None for now.
            is_passed_on: Whether another worker was asked, and has done it already.

        Returns:
            What came of it.

        Raises:
            Refusal: If something is wrong with that, or there is no such thing, or the store of a
                cache is in trouble.
        """
        if what not in CHANGES:
            raise Refusal(404, f"{what!r} cannot be changed")
        unknown = sorted(arguments.keys() - CHANGES[what])
        if unknown:
            allowed = ", ".join(sorted(CHANGES[what]))
            raise Refusal(400, f"{unknown[0]!r} is not known here; allowed: {allowed}")
        if what == "cache/purge":
            return await self._purge(arguments)
        when = self._stamps() if stamp is None else stamp
        if what == "log-level":
            return self._set_level(arguments, when)
        return self._apply(what, arguments, when, is_passed_on=is_passed_on)

    def _apply(
        self, what: str, arguments: Mapping[str, object], stamp: int, *, is_passed_on: bool
    ) -> dict[str, object]:
        action = _action(what)
        name, source = _pick("pool", self._backends, arguments)
        address = _text(arguments, "address")
        is_here = any(row["address"] == address for row in source.rows())
        # A sibling has said so: discovery is ahead there.
        if not is_here and not (is_passed_on and isinstance(source, PoolBackends)):
            raise Refusal(404, f"{name!r} has no backend {address!r}")
        if self._decisions.note(Decision(what, name, address, stamp)):
            self._carry_out(source, address, action)
            _logger.info("backend %s of %r: %s, by the admin interface", address, name, action)
        return {"pool": name, "address": address, "action": action}

    @staticmethod
    def _carry_out(source: BackendSource, address: str, action: BackendAction) -> None:
        if isinstance(source, PoolBackends):
            source.keep(address, action)
        else:
            source.apply(address, action)

    async def _purge(self, arguments: Mapping[str, object]) -> dict[str, object]:
        name, source = _pick("cache", self._caches, arguments)
        soft = arguments.get("soft", False)
        if not isinstance(soft, bool):
            raise Refusal(400, "'soft' is true or false")
        if ("url" in arguments) == ("tag" in arguments):
            raise Refusal(400, "what is purged is told by 'url' or by 'tag'")
        try:
            async with asyncio.timeout(PURGE_TIMEOUT):
                if "url" in arguments:
                    found = int(await source.purge_url(_text(arguments, "url"), soft=soft))
                else:
                    known = await source.purge_tag(_text(arguments, "tag"), soft=soft)
                    found = -1 if known is None else known
        except ValueError as error:
            raise Refusal(400, str(error)) from error
        except TimeoutError as error:
            late = f"cache {name!r} took more than {PURGE_TIMEOUT:g} seconds; it may purge yet"
            raise Refusal(504, late) from error
        except Error as error:
            _logger.warning("a purge of cache %r failed: %s", name, error)
            raise Refusal(502, f"cache {name!r} is in trouble; the log tells more") from error
        _logger.info("cache %r: purged %d, by the admin interface", name, found)
        return {"cache": name, "purged": None if found < 0 else found, "soft": soft}

    def _set_level(self, arguments: Mapping[str, object], stamp: int) -> dict[str, object]:
        level = _text(arguments, "level").lower()
        if level not in LEVELS:
            raise Refusal(400, f"'level' is one of {', '.join(LEVELS)}")
        before = self.log_level()
        if self._decisions.note(Decision(f"log-level/{level}", "", "", stamp)):
            logging.getLogger().setLevel(level.upper())
            _logger.info("log level: %s, was %s, by the admin interface", level, before)
        return {"level": level, "before": before}

    # ------------------------------------------------------------------ workers to come

    def decisions(self) -> list[list[object]]:
        """Tell what was decided, for a worker that has just begun.

        Returns:
            It, for JSON.
        """
        return self._decisions.as_rows()

    def adopt(self, rows: object) -> None:
        """Decide as the other workers have.

        Args:
            rows: What one of them told as its `decisions`.
        """
        for decision in Decisions.from_rows(rows):
            what, where, subject, _ = decision
            kind, _, level = what.partition("/")
            if kind == "log-level" and level in LEVELS:
                if self._decisions.note(decision):
                    logging.getLogger().setLevel(level.upper())
            elif kind == "backends" and what in CHANGES and where in self._backends:
                if self._decisions.note(decision):
                    self._carry_out(self._backends[where], subject, _action(what))
            else:
                _logger.warning("another worker has decided %r, which is not known here", what)

    def reloaded(self, conf: ServerConf) -> None:
        """Take note of a new configuration: one that has a log level decides it.

        Args:
            conf: It.
        """
        if conf.log_level is not None:
            self._decisions.forget("log-level")


def _action(what: str) -> BackendAction:
    for action in get_args(BackendAction):
        if what == f"backends/{action}":
            return action  # type: ignore[no-any-return]
    raise Refusal(404, f"{what!r} cannot be changed")


def _pick(kind: str, sources: Mapping[str, _S], arguments: Mapping[str, object]) -> tuple[str, _S]:
    if kind in arguments:
        name = _text(arguments, kind)
        if name in sources:
            return name, sources[name]
        raise Refusal(404, f"there is no {kind} {name!r}")
    if len(sources) == 1:
        return next(iter(sources.items()))
    raise Refusal(400 if sources else 404, f"{kind!r} is one of {', '.join(sources) or 'none'}")


def _text(arguments: Mapping[str, object], key: str) -> str:
    text = arguments.get(key)
    if not isinstance(text, str) or not text or len(text) > _MAX_TEXT:
        raise Refusal(400, f"{key!r} is a text of 1 to {_MAX_TEXT} characters")
    return text


def _resident_memory() -> int:
    # Bytes; 0 where the system does not say.
    try:
        return int(_STATM.read_bytes().split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return 0
