"""listening.Service while it runs: other addresses, other certificates, an application's reload."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from pingora_core.apps import ServerApp
from pingora_core.conf import CONFIG_ERROR, ServerConf
from pingora_core.listeners import (
    Listeners,
    ListenFds,
    TcpServerAddress,
    TlsSettings,
    UdsServerAddress,
)
from pingora_core.listeners.l4 import BindRetry
from pingora_core.runtime.shutdown import ShutdownSwitch
from pingora_core.services import ServiceContext
from pingora_core.services.listening import Service
from pingora_error import Error, ErrorType
from tests.support.certificates import CertificateAuthority
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pingora_core.protocols.interfaces import Stream
    from pingora_core.runtime.shutdown import ShutdownWatch

pytestmark = pytest.mark.usefixtures("no_leaks")

FIRST = "127.0.0.1:0"
SECOND = "127.0.0.2:0"
_ONE_ATTEMPT = BindRetry(1)
TAKEN = "192.0.2.1:1"  # TEST-NET-1, not an address of this machine


class Greeter(ServerApp):
    """Says one word and goes; the word comes from the configuration."""

    def __init__(self, word: bytes = b"hello") -> None:
        self.word = word
        self.problem: Exception | None = None

    async def process_new(self, stream: Stream, shutdown: ShutdownWatch) -> Stream | None:
        stream.write(self.word)
        return None

    async def reload(self, conf: ServerConf) -> None:
        if self.problem is not None:
            raise self.problem
        self.word = b"%d" % conf.max_retries


class Running:
    """A service in a task of its own."""

    def __init__(self, service: Service[Greeter], retry: BindRetry = _ONE_ATTEMPT) -> None:
        self.switch = ShutdownSwitch()
        self.fds = ListenFds(retry=retry)
        self.context = ServiceContext(shutdown=self.switch.watch, fds=self.fds)
        self.task = asyncio.create_task(service.start_service(self.context))


@asynccontextmanager
async def running(service: Service[Greeter]) -> AsyncIterator[Running]:
    runner = Running(service)
    async with asyncio.timeout(30):
        await runner.context.ready.wait()
    try:
        yield runner
    finally:
        runner.task.cancel()
        await asyncio.wait([runner.task])


def greeter(*addresses: str) -> Service[Greeter]:
    service = Service("greeter", Greeter())
    for address in addresses:
        service.add_tcp(address)
    return service


async def hear(service: Service[Greeter], index: int = 0) -> bytes:
    """Connect, and listen until the end."""
    host, port = str(service.addresses[index]).split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        return await asyncio.wait_for(reader.read(), 30)
    finally:
        writer.close()
        await writer.wait_closed()


# -------------------------------------------------------------------------------- addresses


async def test_a_stop_does_not_wait_for_an_address_in_use(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Half a minute of attempts ends with the wish to stop, and nothing is left bound."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        service = greeter(FIRST, f"127.0.0.1:{other.getsockname()[1]}")
        runner = Running(service, BindRetry(100, 60.0))
        await eventually(lambda: "attempt 1 of 100" in caplog.text)
        runner.switch.start()
        async with asyncio.timeout(30):
            await runner.task
    assert not runner.context.ready.is_ready
    assert service.addresses == ()


def test_addresses_are_known_before_the_start() -> None:
    """A supervisor binds them before it forks."""
    service = greeter(FIRST)
    service.add_uds("/run/x.sock", 0o600)

    assert service.listen_addresses == (
        TcpServerAddress(FIRST),
        UdsServerAddress("/run/x.sock", 0o600),
    )


async def test_listeners_are_replaced_while_the_service_runs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The new set is served, listed and told."""
    caplog.set_level(logging.INFO)
    service = greeter(FIRST)
    async with running(service) as runner:
        first = service.addresses[0]
        both = Listeners.tcp(SECOND)
        both.add_tcp(FIRST)

        await service.update_listeners(both)

        assert service.listeners is both
        assert service.listen_addresses == (TcpServerAddress(SECOND), TcpServerAddress(FIRST))
        assert service.addresses[1] == first
        assert runner.fds.in_use == {FIRST, SECOND}
        assert [await hear(service, 0), await hear(service, 1)] == [b"hello", b"hello"]
        assert f"service 'greeter' now listens on {service.addresses[0]}, {first}" in caplog.text

        await service.update_listeners(Listeners.tcp(SECOND))
        assert runner.fds.in_use == {SECOND}


async def test_a_set_that_cannot_be_had_changes_nothing() -> None:
    """The error names the address; the service goes on as it was."""
    service = greeter(FIRST)
    async with running(service) as runner:
        before = service.listeners, service.addresses
        fresh = Listeners.tcp(SECOND)
        fresh.add_tcp(TAKEN)

        with pytest.raises(Error, match=TAKEN) as caught:
            await service.update_listeners(fresh)

        assert caught.value.etype is ErrorType.BIND_ERROR
        assert (service.listeners, service.addresses) == before
        assert runner.fds.in_use == {FIRST}
        assert await hear(service) == b"hello"


async def test_a_set_that_makes_no_sense_is_refused() -> None:
    """As it is before the start: no address, or one of them twice."""
    service = greeter(FIRST)
    twice = Listeners.tcp(SECOND)
    twice.add_tcp(SECOND)
    async with running(service):
        with pytest.raises(Error, match=r"'greeter': has no address to listen on") as none:
            await service.update_listeners(Listeners())
        with pytest.raises(Error, match=r"got '127\.0\.0\.2:0' 2 times") as double:
            await service.update_listeners(twice)

        assert none.value.etype == double.value.etype == CONFIG_ERROR
        assert await hear(service) == b"hello"


async def test_a_set_for_a_service_that_has_not_started_is_what_it_starts_with() -> None:
    """It replaces what was added, and what was refused, before."""
    service = greeter("nonsense", FIRST)

    await service.update_listeners(Listeners.tcp(SECOND))

    async with running(service) as runner:
        assert runner.fds.in_use == {SECOND}
        assert await hear(service) == b"hello"


async def test_a_set_that_comes_during_the_start_waits_for_it() -> None:
    """And is then what is served."""
    service = greeter(FIRST)
    runner = Running(service)
    await asyncio.sleep(0)

    await service.update_listeners(Listeners.tcp(SECOND))

    async with asyncio.timeout(30):
        await runner.context.ready.wait()
    assert runner.fds.in_use == {SECOND}
    runner.switch.start()
    await asyncio.wait_for(runner.task, 30)


async def test_a_service_that_stops_opens_nothing() -> None:
    """A set that comes during the shutdown is for a later start, if there is one."""
    service = greeter(FIRST)
    async with running(service) as runner:
        runner.switch.start()

        await service.update_listeners(Listeners.tcp(SECOND))

        assert runner.fds.in_use == frozenset()
        await asyncio.wait_for(runner.task, 30)
    async with running(service) as again:
        assert again.fds.in_use == {SECOND}


# ------------------------------------------------------------------------------------- reload


async def test_a_reload_goes_to_the_application() -> None:
    """With the new configuration."""
    service = greeter(FIRST)
    async with running(service):
        await service.reload(ServerConf(max_retries=7))

        assert await hear(service) == b"7"


@pytest.mark.parametrize(
    "problem", [Error(CONFIG_ERROR, "no such word"), KeyError("no such word")], ids=["known", "bug"]
)
async def test_what_the_application_refuses_is_told(problem: Exception) -> None:
    """With the name of the service; it goes on as it was."""
    service = greeter(FIRST)
    service.app_logic.problem = problem
    async with running(service):
        with pytest.raises(Error, match=r"service 'greeter': .*no such word") as caught:
            await service.reload(ServerConf())

        assert caught.value.etype == CONFIG_ERROR
        assert caught.value.cause is problem
        assert await hear(service) == b"hello"


class Certificates:
    """A TLS service whose certificate files can be replaced; nobody looks at them by itself."""

    def __init__(self, directory: Path) -> None:
        self.authority = CertificateAuthority(directory)
        self.cert_path = directory / "cert.pem"
        self.key_path = directory / "key.pem"
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.load_verify_locations(self.authority.cert_path)

    def renew(self) -> int:
        issued = self.authority.issue("lines.test")
        self.cert_path.write_bytes(issued.chain_pem)
        self.key_path.write_bytes(issued.key_pem)
        return issued.serial

    def service(self) -> Service[Greeter]:
        self.renew()
        settings = TlsSettings.intermediate(self.cert_path, self.key_path)
        settings.reload_interval = None
        service = greeter()
        service.add_tls_with_settings(FIRST, None, settings)
        return service

    async def serial_of(self, service: Service[Greeter]) -> int:
        return await asyncio.to_thread(self._serial_of, str(service.addresses[0]))

    def _serial_of(self, address: str) -> int:
        host, port = address.split(":")
        with (
            socket.create_connection((host, int(port)), 5) as plain,
            self.context.wrap_socket(plain, server_hostname="lines.test") as tls,
        ):
            assert tls.recv(10)
            found = tls.getpeercert()
            assert found is not None
            return int(str(found["serialNumber"]), 16)


async def test_a_reload_reads_certificates_again(tmp_path: Path) -> None:
    """At once, whatever the interval of looking is."""
    certificates = Certificates(tmp_path)
    service = certificates.service()
    async with running(service):
        old = await certificates.serial_of(service)
        new = certificates.renew()

        await service.reload(ServerConf())

        assert await certificates.serial_of(service) == new != old


async def test_a_bad_certificate_leaves_the_old_one(tmp_path: Path) -> None:
    """The error names the address, the file and the reason; what the app took over stays."""
    certificates = Certificates(tmp_path)
    service = certificates.service()
    async with running(service):
        old = await certificates.serial_of(service)
        certificates.cert_path.write_text("no certificate")

        with pytest.raises(Error, match=r"'greeter': 127\.0\.0\.1:0: .*cert\.pem") as caught:
            await service.reload(ServerConf())

        assert caught.value.etype == CONFIG_ERROR
        assert await certificates.serial_of(service) == old


async def test_a_shared_acceptor_is_reloaded_once() -> None:
    """And acceptors that have nothing to reload are left alone."""

    class Counting:
        def __init__(self) -> None:
            self.reloads = 0

        async def accept(self, stream: Stream, /) -> Stream:
            return stream

        async def reload(self) -> list[Error]:
            self.reloads += 1
            return []

    class Plain:
        async def accept(self, stream: Stream, /) -> Stream:
            return stream

    counting = Counting()
    service = greeter()
    service.add_endpoint(TcpServerAddress(FIRST), acceptor=counting)
    service.add_endpoint(TcpServerAddress(SECOND), acceptor=counting)
    service.add_endpoint(TcpServerAddress("127.0.0.3:0"), acceptor=Plain())

    await service.reload(ServerConf())

    assert counting.reloads == 1


async def test_an_application_may_change_the_listeners_in_its_reload() -> None:
    """That is where a program learns of new addresses."""

    class Moving(Greeter):
        async def reload(self, conf: ServerConf) -> None:
            await service.update_listeners(Listeners.tcp(SECOND))

    service: Service[Greeter] = Service("greeter", Moving())
    service.add_tcp(FIRST)
    async with running(service) as runner:
        await service.reload(ServerConf())

        await eventually(lambda: runner.fds.in_use == {SECOND})
        assert await hear(service) == b"hello"
