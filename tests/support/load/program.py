"""The proxy that is upgraded and reloaded under load; run with ``-c conf`` and ``-u``.

Its own section of the configuration is ``site``; a reload takes over all of it but the way it
starts.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pingora_core import HttpPeer, Opt, Server
from pingora_core.listeners import Listeners
from pingora_core.listeners.tls import TlsSettings
from pingora_core.server import exit_on_error
from pingora_core.services import BackgroundService, background_service
from pingora_core.services.listening import Service
from pingora_proxy import ProxyHttp, http_proxy

if TYPE_CHECKING:
    from pingora_core.conf import ServerConf
    from pingora_core.runtime import ShutdownWatch
    from pingora_core.services import ServiceReadyNotifier
    from pingora_http import ResponseHeader
    from pingora_proxy import Session

_LATE = 0.4
"""Seconds in which a successor has accepted connections, before it fails."""


@dataclass(frozen=True)
class Site:
    """What is served, and where."""

    plain: str
    tls: str
    uds: str
    certificate: str
    key: str
    origin: str
    websockets: str
    version: str = "1"
    also: tuple[str, ...] = ()
    start: Literal["at once", "late", "never", "crash", "die"] = "at once"
    is_start_awaited: bool = True

    def listeners(self) -> Listeners:
        listeners = Listeners()
        for address in (self.plain, *self.also):
            listeners.add_tcp(address)
        listeners.add_uds(self.uds)
        settings = TlsSettings.intermediate(self.certificate, self.key)
        settings.enable_h2()
        listeners.add_tls_with_settings(self.tls, None, settings)
        return listeners


class Proxy(ProxyHttp[None]):
    """Sends WebSockets to one origin and everything else to the other."""

    def __init__(self, site: Site) -> None:
        self.take_over(site)

    def take_over(self, site: Site) -> None:
        self._version = site.version
        self._origin = HttpPeer(site.origin)
        self._origin.options.read_timeout = 10.0
        self._websockets = HttpPeer(site.websockets)

    def new_ctx(self) -> None:
        return None

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        return self._websockets if session.req_header.path == "/ws" else self._origin

    async def response_filter(
        self, session: Session, upstream_response: ResponseHeader, ctx: None
    ) -> None:
        upstream_response.insert_header("X-Version", self._version)


class Start(BackgroundService):
    """Comes up as it is told to: at once, never, with an error at once or late, or not at all."""

    def __init__(self, how: str) -> None:
        self._how = how

    async def start(self, shutdown: ShutdownWatch) -> None:
        await shutdown.wait()

    async def start_with_ready_notifier(
        self, shutdown: ShutdownWatch, ready: ServiceReadyNotifier
    ) -> None:
        if self._how == "late":
            await asyncio.sleep(_LATE)
        if self._how in {"crash", "late"}:
            msg = "told to crash"
            raise RuntimeError(msg)
        if self._how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._how == "at once":
            ready.notify_ready()
        await self.start(shutdown)


def main() -> None:
    """Serve until told to stop."""
    args = Opt.parser("The proxy of the load tests.").parse_args()
    faulthandler.enable()
    logging.basicConfig(level=logging.INFO, format="%(process)d %(message)s")
    with exit_on_error():
        server = Server(Opt.from_namespace(args))
        site = server.configuration.section("site", Site)
        proxy = Proxy(site)
        app = http_proxy(server.configuration, proxy)
        service = Service("proxy", app, site.listeners())
    # What has to be there before connections are accepted is a dependency.
    start = server.add_service(background_service("start", Start(site.start)))
    serving = server.add_service(service)
    if site.is_start_awaited:
        serving.add_dependency(start)

    async def reload(conf: ServerConf) -> None:
        site = conf.section("site", Site)
        await service.update_listeners(site.listeners())
        proxy.take_over(site)

    server.on_reload(reload)
    server.run_forever()


if __name__ == "__main__":
    main()
