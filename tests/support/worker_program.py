"""A server with workers whose requests do to their worker what a test wants to see survived.

Run as ``python -m tests.support.worker_program --listen HOST:PORT -c FILE``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from typing import TYPE_CHECKING

from pingora_core import HttpServer, Opt, Response, ServeHttp, Server, Service
from pingora_core.services.background import BackgroundService, background_service
from pingora_core.services.service import Placement
from pingora_error import Error, ErrorType

if TYPE_CHECKING:
    from pingora_core import ServerConf, ServerSession, ShutdownWatch

_MEBIBYTE = 1 << 20


class Behaviour(ServeHttp):
    """Answers with the process that serves, after doing what the path says."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.greeting = "hello"
        self.hoard: list[bytes] = []

    async def response(self, session: ServerSession) -> Response:
        path = session.request.path
        status = 200
        match path:
            case "/slow":
                logging.warning("a slow request in %d", os.getpid())  # noqa: LOG015
                await asyncio.sleep(0.5)
            case "/die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "/block":
                time.sleep(60)  # noqa: ASYNC251 - the fault to be shown
            case "/eat":
                self.hoard.append(os.urandom(64 * _MEBIBYTE))
            case "/ready":
                status = 200 if self.server.is_ready else 503
            case "/greeting":
                return Response(200, self.greeting.encode())
            case _:
                pass
        return Response(status, str(os.getpid()).encode())


class Single(BackgroundService):
    """Work that must run in one worker only; says where it does."""

    async def start(self, shutdown: ShutdownWatch) -> None:
        logging.warning("single runs in %d", os.getpid())  # noqa: LOG015 - the whole program's
        await shutdown.wait()
        logging.warning("single ends in %d", os.getpid())  # noqa: LOG015


class Failing(BackgroundService):
    """Work that fails in the way that the command line says."""

    def __init__(self, how: str) -> None:
        self.how = how

    async def start(self, shutdown: ShutdownWatch) -> None:
        if self.how == "crash":
            os._exit(3)
        if self.how == "error":
            raise Error.internal(ErrorType.INTERNAL_ERROR, "no luck today")
        await shutdown.wait()


def main() -> None:
    """Run it."""
    parser = Opt.parser()
    parser.add_argument("--listen", default="127.0.0.1:0")
    parser.add_argument("--fail", default="")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(process)d %(message)s", stream=sys.stderr)
    server = Server(Opt.from_namespace(arguments))
    behaviour = Behaviour(server)
    web = Service("web", HttpServer(behaviour))
    web.add_tcp(arguments.listen)
    server.add_service(web)
    single = background_service("single", Single())
    single.placement = Placement.ONE_WORKER
    server.add_service(single)
    server.add_service(background_service("failing", Failing(arguments.fail)))

    async def reload(conf: ServerConf) -> None:
        greeting = conf.extra.get("greeting", "hello")
        if not isinstance(greeting, str):
            raise Error.internal(ErrorType.INTERNAL_ERROR, "greeting: wanted text")
        behaviour.greeting = greeting

    server.on_reload(reload)
    server.run_forever()


if __name__ == "__main__":
    main()
