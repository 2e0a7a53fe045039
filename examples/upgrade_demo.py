"""An upgrade under load: version 2 takes over from version 1, and no client notices.

Run it::

    python examples/upgrade_demo.py [--workers 2]

It starts ``upgrade_demo.py serve -c FILE`` as version 1 and clients that keep it busy, starts
version 2 with ``-u``, tells version 1 with SIGQUIT, and counts what the clients got.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import socket
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path

from pingora_core import HttpServer, Opt, Response, ServeHttp, Server, ServerSession, Service
from pingora_core.server import exit_on_error


class Version(ServeHttp):
    """Tells its version."""

    def __init__(self, version: str) -> None:
        self.body = version.encode()

    async def response(self, session: ServerSession) -> Response:
        return Response(200, self.body)


def serve(arguments: list[str]) -> None:
    """Serve one version until told to stop, or to hand over."""
    args = Opt.parser("Tells its version.").parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="  %(process)d: %(message)s")
    with exit_on_error():
        server = Server(Opt.from_namespace(args))
        site = server.configuration.section("site", dict[str, str])
    service = Service("version", HttpServer(Version(site["version"])))
    service.add_tcp(site["listen"])
    server.add_service(service)
    server.run_forever()


class Clients:
    """Keep asking until told to stop, on new connections and on kept ones."""

    def __init__(self, address: str) -> None:
        self.host, _, self.port = address.rpartition(":")
        self.answers: Counter[str] = Counter()
        self.failures: list[Exception] = []
        self.is_stopping = False

    async def run(self, requests: int) -> None:
        while not self.is_stopping:
            try:
                await self.use_one_connection(requests)
            except (OSError, asyncio.IncompleteReadError) as error:
                if self.answers:  # before the first there was no server yet
                    self.failures.append(error)
                await asyncio.sleep(0.01)

    async def use_one_connection(self, requests: int) -> None:
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            for number in range(requests):
                writer.write(b"GET / HTTP/1.1\r\nHost: upgrade.test\r\n\r\n")
                try:
                    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                except (asyncio.IncompleteReadError, ConnectionError) as error:
                    if number and not getattr(error, "partial", b""):
                        return  # closed before it saw the request: asked again (RFC 9112, 9.3.1)
                    raise
                self.answers[(await reader.readexactly(1)).decode()] += 1
                if self.is_stopping or "connection: close" in head:
                    return
                await asyncio.sleep(0.005)
        finally:
            writer.transport.abort()

    async def see(self, version: str) -> None:
        """Wait for answers of a version."""
        async with asyncio.timeout(30):
            before = self.answers[version]
            while self.answers[version] < before + 100:  # noqa: ASYNC110 - a look now and then
                await asyncio.sleep(0.01)


async def demo(folder: Path, workers: int) -> bool:
    """Upgrade under load.

    Returns:
        Whether no client has lost anything.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    clients = Clients(listen)
    tasks = [asyncio.create_task(clients.run(requests)) for requests in (1, 1, 1, 10**9, 10**9)]
    servers: list[asyncio.subprocess.Process] = []
    try:
        for version, option in (("1", []), ("2", ["-u"])):
            conf = folder / f"version-{version}.yaml"
            site = {"listen": listen, "version": version}
            sock = str(folder / "upgrade.sock")
            conf.write_text(json.dumps({"workers": workers, "upgrade_sock": sock, "site": site}))
            command = (sys.executable, __file__, "serve", "-c", str(conf), *option)
            servers.append(await asyncio.create_subprocess_exec(*command))
            if option:
                servers[0].send_signal(signal.SIGQUIT)  # it waits for the new one and hands over
            await clients.see(version)
        await servers[0].wait()
        await clients.see("2")
        clients.is_stopping = True
        await asyncio.wait(tasks)
    finally:
        for server in servers:
            with suppress(ProcessLookupError):
                server.terminate()
            await server.wait()
    total, failed = clients.answers.total(), len(clients.failures)
    print(f"version 1 -> version 2, {total} requests, {failed} failed", *clients.failures[:5])
    return not failed


def main() -> None:
    """Run the demo, or one of its servers."""
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description="An upgrade under load.")
    parser.add_argument("--workers", type=int, default=1, help="worker processes (1)")
    with tempfile.TemporaryDirectory() as folder:
        is_fine = asyncio.run(demo(Path(folder), parser.parse_args().workers))
    sys.exit(0 if is_fine else 1)


if __name__ == "__main__":
    main()
