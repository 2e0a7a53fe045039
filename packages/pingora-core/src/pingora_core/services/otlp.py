"""Sends metrics to an OpenTelemetry collector (OTLP over HTTP): the extra ``otel``.

Theory of operation: every worker sends its own numbers and says which process it is, as OpenTelemetry
wants it; the collector adds them up. The exporter waits for the network, so it runs in a thread. What
goes wrong is counted, and concerns nobody else: while a collector is down or slow, numbers go on
growing, and the next message has them all.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, final

from pingora_core.metrics import Description, Reading
from pingora_core.services.background import BackgroundService

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData

    from pingora_core.metrics import Registry
    from pingora_core.runtime.shutdown import ShutdownWatch

__all__ = ["DESCRIPTIONS", "OtlpMetrics"]

_logger = logging.getLogger(__name__)

EXPORTS: Final = Description.counter(
    "pingora.metrics.otlp.exports",
    "Messages with metrics for the collector: taken, failed, or left out as it was too slow.",
    "outcome",
)

DESCRIPTIONS: Final = (EXPORTS,)


class _Exporter(Protocol):
    def export(self, metrics_data: MetricsData, /) -> MetricExportResult: ...

    def shutdown(self) -> None: ...


@final
class OtlpMetrics(BackgroundService):
    """Sends the metrics of each worker to a collector, from time to time and at the end.

    Run it with ``background_service("otlp", OtlpMetrics(registry))``. What is not said here, such as
    headers and certificates, is taken from the ``OTEL_EXPORTER_OTLP_*`` variables.

    Args:
        registry: What to send.
        endpoint: URL of the collector, such as ``http://127.0.0.1:4318/v1/metrics``; None for what
            the variables say.
        interval: From one message to the next, seconds.
        timeout: What a message may take with all its retries, seconds.
        resource: Attributes that tell what this is, besides ``service.name`` and those of
            ``OTEL_RESOURCE_ATTRIBUTES``.
        service_name: What the attribute of that name says; None for ``OTEL_SERVICE_NAME``, or
            ``pingora``.

    Attributes:
        sent: Messages that the collector has taken.
        failed: Messages that it has not.
        skipped: Messages that were not made because the one before was still on its way.

    Raises:
        ImportError: If the extra ``otel`` is not installed.
        ValueError: If the interval or the timeout is not positive.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        endpoint: str | None = None,
        interval: float = 30.0,
        timeout: float = 10.0,
        resource: Mapping[str, str] | None = None,
        service_name: str | None = None,
    ) -> None:
        if interval <= 0 or timeout <= 0:
            raise ValueError(f"interval and timeout are positive, not {interval} and {timeout}")
        # Now: who lacks the extra learns it before anything is started.
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import (  # noqa: PLC0415
            OTLPMetricExporter,
        )

        self.sent: int = 0
        self.failed: int = 0
        self.skipped: int = 0
        self._registry = registry
        self._make: Callable[[], _Exporter] = partial(
            OTLPMetricExporter, endpoint=endpoint, timeout=timeout
        )
        self._interval = interval
        self._timeout = timeout
        name = service_name or os.environ.get("OTEL_SERVICE_NAME") or "pingora"
        self._resource = {"service.name": name, **(resource or {})}
        self._started = 0
        self._thread: threading.Thread | None = None
        registry.add_source(self._read)

    def _read(self) -> Iterator[Reading]:
        yield Reading(EXPORTS, self.sent, ("sent",))
        yield Reading(EXPORTS, self.failed, ("failed",))
        yield Reading(EXPORTS, self.skipped, ("skipped",))

    async def start(self, shutdown: ShutdownWatch) -> None:
        """Send metrics until the server stops, and once more then.

        Args:
            shutdown: Tells whether, and when, the server stops.
        """
        self._started = time.time_ns()
        exporter = self._make()  # here and not before: it is not to be used by forked processes
        try:
            while not await self._stops_before_next(shutdown):
                self._send(exporter)
            if self._is_busy:
                self.skipped += 1
            else:
                await self._send(exporter).wait_for_end(self._timeout)
        finally:
            exporter.shutdown()

    async def _stops_before_next(self, shutdown: ShutdownWatch) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._interval):
                await shutdown.wait()
        return shutdown.is_shutting_down

    @property
    def _is_busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _send(self, exporter: _Exporter) -> _Sending:
        sending = _Sending(self, asyncio.get_running_loop())
        if self._is_busy:
            self.skipped += 1
            return sending
        from pingora_core.metrics.otlp import make_metrics_data  # noqa: PLC0415 - an extra

        process = {"service.instance.id": f"{socket.gethostname()}:{os.getpid()}"}
        # The numbers of this moment; what is made of them is made in the thread.
        make_data = partial(
            make_metrics_data,
            self._registry.collect(),
            process | self._resource,
            started=self._started,
            now=time.time_ns(),
        )
        # Not one that the interpreter waits for at its end: a collector may hang.
        thread = threading.Thread(
            target=sending.run, args=(exporter, make_data), name="otlp metrics", daemon=True
        )
        self._thread = thread
        thread.start()
        return sending

    def ended(self, *, is_taken: bool) -> None:
        """Count a message; called in the event loop.

        Args:
            is_taken: Whether the collector has it.
        """
        if is_taken:
            self.sent += 1
            return
        self.failed += 1
        # One that is always away is in the log the 1st, 2nd, 4th, 8th ... time.
        if self.failed & (self.failed - 1) == 0:
            _logger.warning("metrics could not be sent, %d times so far", self.failed)


@final
class _Sending:
    # A message on its way.
    __slots__ = ("_ended", "_loop", "_service")

    def __init__(self, service: OtlpMetrics, loop: asyncio.AbstractEventLoop) -> None:
        self._service = service
        self._loop = loop
        self._ended = asyncio.Event()

    async def wait_for_end(self, timeout: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._ended.wait()

    def run(self, exporter: _Exporter, make_data: Callable[[], MetricsData]) -> None:
        # In the thread.
        is_taken = False
        try:
            is_taken = exporter.export(make_data()).name == "SUCCESS"
        except Exception:
            _logger.exception("metrics cannot be sent")
        with suppress(RuntimeError):  # the event loop has ended before the collector answered
            self._loop.call_soon_threadsafe(self._tell, is_taken)

    def _tell(self, is_taken: bool) -> None:  # noqa: FBT001 - a callback
        self._service.ended(is_taken=is_taken)
        self._ended.set()
