"""A server that takes over a new configuration while it works: no connection notices."""

from __future__ import annotations

import asyncio
import errno
import shutil
import signal
import socket
import ssl
from typing import TYPE_CHECKING

import pytest

from tests.support.certificates import CertificateAuthority
from tests.support.load.counts import failures_of, table
from tests.support.load.crew import Crew
from tests.support.load.origin import LoadOrigin
from tests.support.load.site import ProxyProcess, Site
from tests.support.ports import free_address
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(300)

WORKERS = pytest.mark.parametrize("workers", [1, 2], ids=["1 worker", "2 workers"])
# The clients that keep their connection, and one that does not.
KEPT = {"h1-5ms": 1, "h1-150ms": 1, "uds-kept": 1, "tls-kept": 1, "h2": 1, "sse": 1, "ws": 1}
SIZES = KEPT | {"h1-new": 1, "tls-new": 1, "upload": 1}
IN_USE = "the new configuration is in use"


@pytest.fixture
async def origin() -> AsyncIterator[LoadOrigin]:
    async with LoadOrigin() as origin:
        yield origin


async def warm(crew: Crew) -> None:
    await eventually(lambda: crew.is_warm, "an answer for each sort of client")


async def goes_on(crew: Crew) -> None:
    requests = crew.requests()
    await eventually(
        lambda: crew.has_gone_on_since(requests), "another answer for each client", timeout=20
    )


def assert_nobody_noticed(crew: Crew) -> None:
    shown = table(crew.counts.values())
    assert not failures_of(crew.counts.values()), shown
    assert {name: crew.counts[name].connections for name in KEPT} == KEPT, shown


@WORKERS
async def test_reloads_under_load_touch_no_connection(
    tmp_path: Path, origin: LoadOrigin, workers: int
) -> None:
    """Every kept connection is the same before and after, and what is new is in use."""
    site = Site(tmp_path, origin, {"workers": workers})
    async with ProxyProcess(site) as server:
        await server.running()
        async with Crew(site.target, SIZES) as crew:
            await warm(crew)
            for times, version in enumerate(("2", "3"), 1):
                site.configure(version)
                server.send(signal.SIGHUP)
                await server.says(IN_USE, times=times * workers)
                assert await site.version() == version
                await goes_on(crew)
        assert_nobody_noticed(crew)
        assert await server.stop() == 0


@WORKERS
async def test_a_bad_configuration_changes_nothing(
    tmp_path: Path, origin: LoadOrigin, workers: int
) -> None:
    """It is told what is wrong, and the old one stays."""
    site = Site(tmp_path, origin, {"workers": workers})
    async with ProxyProcess(site) as server:
        await server.running()
        async with Crew(site.target, SIZES) as crew:
            await warm(crew)
            good = site.conf_path.read_text()
            site.conf_path.write_text(good + "max_retries: often\n")
            server.send(signal.SIGHUP)
            await server.says("max_retries: got 'often'")
            site.conf_path.write_text(good.replace("websockets:", "websocket:"))
            server.send(signal.SIGHUP)
            await server.says("site")
            await goes_on(crew)
            assert await site.version() == "1"
        assert_nobody_noticed(crew)
        assert await server.stop() == 0


@WORKERS
async def test_listeners_come_and_go(tmp_path: Path, origin: LoadOrigin, workers: int) -> None:
    """An address that is new is served, one that is gone refuses, and the others are as ever."""
    site = Site(tmp_path, origin, {"workers": workers})
    address = free_address()
    async with ProxyProcess(site) as server:
        await server.running()
        async with Crew(site.target, SIZES) as crew:
            await warm(crew)
            site.configure("2", also=[address])
            server.send(signal.SIGHUP)
            await server.says(IN_USE, times=workers)
            assert await site.version(address) == "2"

            site.configure("3")
            server.send(signal.SIGHUP)
            await server.says(IN_USE, times=2 * workers)
            await refuses(address)
            await goes_on(crew)
        assert_nobody_noticed(crew)
        assert await server.stop() == 0


async def test_certificates_are_replaced(tmp_path: Path, origin: LoadOrigin) -> None:
    """New connections see the new one; those that there are go on."""
    site = Site(tmp_path, origin)
    (tmp_path / "next").mkdir()
    renewed = CertificateAuthority(tmp_path / "next").issue("localhost", "127.0.0.1")
    async with ProxyProcess(site) as server:
        await server.running()
        before = await serial_of(site)
        async with Crew(site.target, KEPT) as crew:
            await warm(crew)
            shutil.copy(renewed.chain_path, site.certificate.chain_path)
            shutil.copy(renewed.key_path, site.certificate.key_path)
            server.send(signal.SIGHUP)
            await server.says(IN_USE)
            assert await serial_of(site) == renewed.cert_pem != before
            await goes_on(crew)
        assert_nobody_noticed(crew)
        assert await server.stop() == 0


async def serial_of(site: Site) -> bytes:
    """Return the certificate that a new connection sees, as PEM."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    host, port = site.target.tls.split(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    try:
        shown: ssl.SSLObject = writer.get_extra_info("ssl_object")
        certificate = shown.getpeercert(binary_form=True)
        assert certificate is not None
        return ssl.DER_cert_to_PEM_cert(certificate).encode()
    finally:
        writer.transport.abort()


async def refuses(address: str) -> None:
    """Wait until nobody listens on an address."""
    host, port = address.split(":")

    def is_refused() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((host, int(port))) == errno.ECONNREFUSED

    await eventually(is_refused, "the end of the listener")
