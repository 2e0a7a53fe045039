"""What can be asked of a process, and changed in it, apart from how one is told to."""

from __future__ import annotations

import logging
import os
import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar, final, get_args

from pingora_core.metrics import WorkerMetrics
from pingora_core.runtime.counters import COUNTERS
from pingora_error import Error
from pingora_proxy._version import __version__
from pingora_proxy.admin.guard import Refusal
from pingora_proxy.admin.redaction import redact
from pingora_proxy.admin.sources import BackendAction
from pingora_proxy.admin.traffic import all_numbers, traffic_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pingora_proxy.admin.sources import (
        BackendSource,
        CacheSource,
        MetricsSource,
        ProxyView,
        ServerView,
    )

__all__ = ["CHANGES", "LEVELS", "Operations"]

_logger = logging.getLogger(__name__)

_S = TypeVar("_S")

LEVELS: Final = ("critical", "error", "warning", "info", "debug")
"""How much can be logged, from little to much."""

CHANGES: Final = frozenset({
    *(f"backends/{action}" for action in get_args(BackendAction)),
    "cache/purge",
    "log-level",
})  # fmt: skip
"""What can be changed."""

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
        clock: Time that never jumps, seconds.
    """

    def __init__(
        self,
        server: ServerView,
        *,
        metrics: MetricsSource | None,
        backends: Mapping[str, BackendSource],
        caches: Mapping[str, CacheSource],
        proxies: Mapping[str, ProxyView],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server = server
        self._metrics = metrics
        self._backends = backends
        self._caches = caches
        self._proxies = proxies
        self._clock = clock
        self._started = clock()

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
        return self._server.is_ready

    def overview(self) -> dict[str, object]:
        """Tell all that the page shows, from one moment.

        Returns:
            It, for JSON.
        """
        families = None if self._metrics is None else self._metrics.collect()
        return {
            "version": __version__,
            "time": self._clock(),
            "pid": os.getpid(),
            "is_ready": self._server.is_ready,
            "phase": str(self._server.phase),
            "worker_count": self._server.configuration.worker_count,
            "is_of_all_workers": isinstance(self._metrics, WorkerMetrics),
            "traffic": None if families is None else traffic_of(families),
            "backends": self.backends(),
            "caches": self.caches(),
            "pools": self.pools(),
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
            "values": redact(conf),
        }

    def backends(self) -> dict[str, object]:
        """Tell about all backends.

        Returns:
            Rows, by the name of what they belong to.
        """
        return {name: list(source.rows()) for name, source in self._backends.items()}

    def caches(self) -> dict[str, object]:
        """Tell about all caches.

        Returns:
            Groups of numbers, by the name of the cache.
        """
        return {name: source.stats() for name, source in self._caches.items()}

    def pools(self) -> dict[str, object]:
        """Tell about the connections to upstreams.

        Returns:
            Numbers, by the name of the proxy.
        """
        pools: dict[str, object] = {}
        for name, proxy in self._proxies.items():
            connector = proxy.connector
            pools[name] = {
                "http1_idle": connector.transport.idle_count,
                "http2_connections": len(connector.http2.pool),
                "http2_idle": connector.http2.pool.idle_count,
            }
        return pools

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
            "is_ready": self._server.is_ready,
            "uptime": self._clock() - self._started,
            "requests": COUNTERS.requests,
            "memory": _resident_memory(),
        }

    def log_level(self) -> str:
        """Tell how much is logged.

        Returns:
            The level of the root logger, in lower case.
        """
        return logging.getLevelName(logging.getLogger().level).lower()

    # ------------------------------------------------------------------------ changing

    async def change(self, what: str, arguments: Mapping[str, object]) -> dict[str, object]:
        """Change something, in this process.

        Args:
            what: One of `CHANGES`.
            arguments: What was said about it.

        Returns:
            What came of it.

        Raises:
            Refusal: If something is wrong with that, or there is no such thing, or the store of a
                cache is in trouble.
        """
        if what == "log-level":
            return self._set_level(arguments)
        if what == "cache/purge":
            return await self._purge(arguments)
        for action in get_args(BackendAction):
            if what == f"backends/{action}":
                return self._apply(action, arguments)
        raise Refusal(404, f"{what!r} cannot be changed")

    def _apply(self, action: BackendAction, arguments: Mapping[str, object]) -> dict[str, object]:
        name, source = _pick("pool", self._backends, arguments)
        address = _text(arguments, "address")
        if not source.apply(address, action):
            raise Refusal(404, f"{name!r} has no backend {address!r}")
        _logger.warning(
            "backend %s of %r: %s, as the admin interface was told", address, name, action
        )
        return {"pool": name, "address": address, "action": action}

    async def _purge(self, arguments: Mapping[str, object]) -> dict[str, object]:
        name, source = _pick("cache", self._caches, arguments)
        soft = arguments.get("soft", False)
        if not isinstance(soft, bool):
            raise Refusal(400, "'soft' is true or false")
        if ("url" in arguments) == ("tag" in arguments):
            raise Refusal(400, "what is purged is told by 'url' or by 'tag'")
        try:
            if "url" in arguments:
                found = int(await source.purge_url(_text(arguments, "url"), soft=soft))
            else:
                known = await source.purge_tag(_text(arguments, "tag"), soft=soft)
                found = -1 if known is None else known
        except ValueError as error:
            raise Refusal(400, str(error)) from error
        except Error as error:
            _logger.warning("a purge of cache %r failed: %s", name, error)
            raise Refusal(502, f"cache {name!r} is in trouble; the log tells more") from error
        _logger.info("cache %r: purged %d, as the admin interface was told", name, found)
        return {"cache": name, "purged": None if found < 0 else found, "soft": soft}

    def _set_level(self, arguments: Mapping[str, object]) -> dict[str, object]:
        level = _text(arguments, "level").lower()
        if level not in LEVELS:
            raise Refusal(400, f"'level' is one of {', '.join(LEVELS)}")
        before = self.log_level()
        logging.getLogger().setLevel(level.upper())
        _logger.warning("log level: %s, was %s, as the admin interface was told", level, before)
        return {"level": level, "before": before}


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
