"""Services of your own: the snippets of docs/how-to/services.md.

Run it, and it starts and stops a service while it runs::

    python examples/recipes/services.py
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

# --8<-- [start:imports]
from pingora_core import BackgroundService, ShutdownWatch, background_service

# --8<-- [end:imports]
# isort: split
# --8<-- [start:restart-import]
from pingora_core.services import Restart

# --8<-- [end:restart-import]
# isort: split
# --8<-- [start:placement-import]
from pingora_core.services import Placement

# --8<-- [end:placement-import]
# isort: split
from pingora_core import (
    HttpPeer,
    HttpServer,
    Opt,
    Response,
    ServeHttp,
    Server,
    ServerConf,
    ServerSession,
    Service,
)
from pingora_core.services import GenBackgroundService, ServiceHandle, ServiceReadyNotifier
from pingora_proxy import ProxyHttp, Session, http_proxy_service

logger = logging.getLogger(__name__)
cleanings: list[str] = []


async def clean_up() -> None:
    """Do the work of the cleaner."""
    cleanings.append("cleaned")


async def fetch() -> list[str]:
    """Find out which backends there are."""
    return ["127.0.0.1:8001"]


# --8<-- [start:cleaner]
class Cleaner(BackgroundService):
    """Cleans up once a minute."""

    async def start(self, shutdown: ShutdownWatch) -> None:
        while not shutdown.is_shutting_down:
            await clean_up()
            with suppress(TimeoutError):
                async with asyncio.timeout(60):
                    await shutdown.wait()


# --8<-- [end:cleaner]


def add_cleaner(server: Server) -> None:
    """Have a server clean up."""
    # --8<-- [start:add]
    server.add_service(background_service("cleaner", Cleaner()))
    # --8<-- [end:add]


# --8<-- [start:ready]
class Discovery(BackgroundService):
    """Knows the backends."""

    async def start_with_ready_notifier(
        self, shutdown: ShutdownWatch, ready: ServiceReadyNotifier
    ) -> None:
        self.backends = await fetch()
        ready.notify_ready()
        await self.start(shutdown)

    # --8<-- [end:ready]

    async def start(self, shutdown: ShutdownWatch) -> None:
        await shutdown.wait()


class Proxy(ProxyHttp[None]):
    """Sends everything to the first backend."""

    def __init__(self, discovery: Discovery) -> None:
        self.discovery = discovery

    def new_ctx(self) -> None:
        return None

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        return HttpPeer(self.discovery.backends[0])


def in_order(server: Server, app: Proxy) -> tuple[ServiceHandle, ServiceHandle]:
    """Start a proxy when it is known where to."""
    # --8<-- [start:order]
    discovery = server.add_service(background_service("discovery", Discovery()))
    proxy = server.add_service(http_proxy_service(server.configuration, app, name="proxy"))
    proxy.add_dependency(discovery)
    # --8<-- [end:order]
    return discovery, proxy


def interval_of(conf: ServerConf) -> float:
    """Read how often to report, in seconds."""
    return conf.section("reports", dict[str, float]).get("interval", 60.0)


# --8<-- [start:reload]
class Reporter(BackgroundService):
    """Reports, as often as the configuration says."""

    async def reload(self, conf: ServerConf) -> None:
        self.interval = interval_of(conf)

    # --8<-- [end:reload]

    async def start(self, shutdown: ShutdownWatch) -> None:
        raise OSError("nobody to report to")


def add_restarted(server: Server) -> GenBackgroundService[Reporter]:
    """Make a service that is started again when it fails."""
    # --8<-- [start:restart]
    reporter = background_service("reporter", Reporter(), on_failure=Restart(max_restarts=10))
    # --8<-- [end:restart]
    server.add_service(reporter)
    return reporter


def add_to_one_worker(server: Server) -> GenBackgroundService[Reporter]:
    """Make a service that runs once in the whole server."""
    # --8<-- [start:placement]
    reporter = background_service("reporter", Reporter(), placement=Placement.ONE_WORKER)
    # --8<-- [end:placement]
    server.add_service(reporter)
    return reporter


class Greeter(ServeHttp):
    """Answers everything with the same text."""

    async def response(self, session: ServerSession) -> Response:
        return Response(200, b"hello\n")


class Manager(BackgroundService):
    """Starts a service when everything else runs, and stops it again.

    Args:
        server: Where.
        discovery: Something that the service depends on.
    """

    def __init__(self, server: Server, discovery: ServiceHandle) -> None:
        self.server = server
        self.discovery = discovery

    async def start(self, shutdown: ShutdownWatch) -> None:
        service = Service("greeter", HttpServer(Greeter()))
        service.add_tcp("127.0.0.1:0")

        def tell(handle: ServiceHandle) -> None:
            logger.info("%s is there: %s", handle.name, service.addresses[0])

        await come_and_go(self.server, service, self.discovery, tell)
        logger.info("%s is gone", service.name)
        await shutdown.wait()


async def come_and_go(
    server: Server,
    service: Service[HttpServer],
    discovery: ServiceHandle,
    use: Callable[[ServiceHandle], None],
) -> None:
    """Have a service for as long as it is used."""
    # --8<-- [start:come]
    handle = await server.start_service(service, dependencies=[discovery])
    # --8<-- [end:come]
    use(handle)
    # --8<-- [start:go]
    await server.stop_service(handle, timeout=5)
    # --8<-- [end:go]


def main() -> None:
    """Serve until told to stop."""
    args = Opt.parser("Starts and stops a service.").parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    server = Server(Opt.from_namespace(args))
    discovery = server.add_service(background_service("discovery", Discovery()))
    add_cleaner(server)
    manager = server.add_service(background_service("manager", Manager(server, discovery)))
    manager.add_dependency(discovery)
    server.run_forever()


if __name__ == "__main__":
    main()
