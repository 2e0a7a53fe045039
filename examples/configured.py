"""A web service that is told everything by its configuration file, and takes changes while it runs.

Run it and try::

    python examples/configured.py -t      # is configured.yaml, or what -c names, as it should be?
    python examples/configured.py
    curl http://127.0.0.1:6199/

Then edit the file, send SIGHUP to the process, and ask again.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from pingora_core import HttpServer, Opt, Response, ServeHttp, Server, Service
from pingora_core.listeners import Listeners
from pingora_core.server import exit_on_error

if TYPE_CHECKING:
    from pingora_core import ServerConf, ServerSession


@dataclass(frozen=True, kw_only=True)
class Greeting:
    """The section ``greeting`` of the file.

    Attributes:
        listen: Where to listen.
        text: What to say.
        times: How often to say it.
    """

    listen: Annotated[tuple[str, ...], Meta(min_length=1, description="a list of HOST:PORT")]
    text: str = "Hello"
    times: Annotated[int, Meta(ge=1, le=10, description="a whole number from 1 to 10")] = 1


class Greeter(ServeHttp):
    """Says what the file tells it to say."""

    def __init__(self, greeting: Greeting) -> None:
        self.greeting = greeting

    async def response(self, session: ServerSession) -> Response:
        line = f"{self.greeting.text}\n" * self.greeting.times
        return Response(200, line.encode(), [("Content-Type", "text/plain")])


def main() -> None:
    """Serve until told to stop."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    server = Server(Opt.parse_args(conf=Path(__file__).with_suffix(".yaml")))
    with exit_on_error():
        greeting = server.configuration.section("greeting", Greeting)
    greeter = Greeter(greeting)
    service = Service("Greeting", HttpServer(greeter))
    for address in greeting.listen:
        service.add_tcp(address)

    async def take_on(conf: ServerConf) -> None:
        # Whatever is wrong raises here, before anything has changed.
        changed = conf.section("greeting", Greeting)
        listeners = Listeners()
        for address in changed.listen:
            listeners.add_tcp(address)
        await service.update_listeners(listeners)
        greeter.greeting = changed

    server.on_reload(take_on)
    server.add_service(service)
    server.run_forever()


if __name__ == "__main__":
    main()
