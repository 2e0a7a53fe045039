"""EndpointSlices, listed and watched. The API server is a stand-in, see its module."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from pingora_error import Error
from pingora_load_balancing import Backend
from pingora_load_balancing.discovery import (
    HttpAccess,
    KubernetesDiscovery,
    KubernetesEndpoint,
    SourceOptions,
)
from tests.support.discovery_kubernetes import KubernetesStandIn, endpoint, endpoint_slice
from tests.support.discovery_watch import FakeTime, addresses, watching
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.certificates import CertificateAuthority

pytestmark = pytest.mark.usefixtures("no_leaks")


def fast() -> SourceOptions:
    """Options with which nobody waits between two questions."""
    time = FakeTime()
    return SourceOptions(clock=time, sleep=time.sleep)


async def test_list() -> None:
    """Ready endpoints are backends, with what is known about them."""
    async with (
        KubernetesStandIn() as server,
        KubernetesDiscovery("web", server.url) as source,
    ):
        server.put(endpoint_slice("web-1", endpoint("10.0.0.1", pod="a"), endpoint("10.0.0.2")))
        server.put(endpoint_slice("other-1", endpoint("10.0.9.9"), service="other"))
        server.put(endpoint_slice("web-6", endpoint("fd00::1"), family="IPv6"))
        server.put(endpoint_slice("web-x", endpoint("a.test"), family="FQDN"))
        found = await source.discover()

    assert addresses(found) == ["10.0.0.1:8080", "10.0.0.2:8080", "[fd00::1]:8080"]
    first = next(iter(found.backends))
    assert first == Backend(
        "10.0.0.1:8080", 1, KubernetesEndpoint("a", "node-1", "zone-a", ("zone-a",), False)
    )
    assert source.last_error is None


async def test_pages() -> None:
    """A long list comes in pages."""
    async with (
        KubernetesStandIn(page=2) as server,
        KubernetesDiscovery("web", server.url) as source,
    ):
        for number in range(5):
            server.put(endpoint_slice(f"web-{number}", endpoint(f"10.0.0.{number}")))
        found = await source.discover()

    assert len(found.backends) == 5
    assert server.lists == 3


async def test_a_page_that_is_gone() -> None:
    """When the token of the next page is too old the list is read again, in one piece."""
    async with (
        KubernetesStandIn(page=2) as server,
        KubernetesDiscovery("web", server.url) as source,
    ):
        for number in range(5):
            server.put(endpoint_slice(f"web-{number}", endpoint(f"10.0.0.{number}")))
        handle = server.origin.handler

        async def forgetful(exchange: object) -> None:
            await handle(exchange)  # type: ignore[arg-type]
            if server.lists == 1:
                server.version += 1
                server.forget()

        server.origin.handler = forgetful
        found = await source.discover()

    assert len(found.backends) == 5
    assert server.lists == 3


@pytest.mark.parametrize(
    ("conditions", "weights"),
    [
        ([(None, None, None)], [1]),
        ([(True, True, False), (False, True, True)], [1, 0]),
        ([(False, True, True), (False, False, True)], [1]),
        ([(True, None, None), (False, None, True)], [1]),
        ([(False, True, False)], []),
        ([(False, None, None)], []),
        ([(True, False, False)], [1]),
    ],
)
async def test_conditions(
    conditions: list[tuple[bool | None, bool | None, bool | None]], weights: list[int]
) -> None:
    """Ready ones are used; those that end but serve are drained, or used if there are no others."""
    async with (
        KubernetesStandIn() as server,
        KubernetesDiscovery("web", server.url) as source,
    ):
        endpoints = [
            endpoint(f"10.0.0.{number}", ready=ready, serving=serving, terminating=terminating)
            for number, (ready, serving, terminating) in enumerate(conditions)
        ]
        server.put(endpoint_slice("web-1", *endpoints))
        found = await source.discover()

    assert [backend.weight for backend in found.backends] == weights


async def test_an_endpoint_in_two_slices() -> None:
    """While an endpoint moves it is in two slices; it counts once, and ready wins."""
    async with (
        KubernetesStandIn() as server,
        KubernetesDiscovery("web", server.url) as source,
    ):
        dying = endpoint("10.0.0.1", ready=False, serving=True, terminating=True)
        server.put(endpoint_slice("web-1", dying))
        server.put(endpoint_slice("web-2", endpoint("10.0.0.1")))
        found = await source.discover()

    assert [(str(each), each.weight) for each in found.backends] == [("10.0.0.1:8080", 1)]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [("admin", "10.0.0.1:9000"), (8080, "10.0.0.1:8080"), (None, None), ("x", None), (53, None)],
)
async def test_ports(wanted: str | int | None, expected: str | None) -> None:
    """A port is chosen by name or number; which one is never guessed, and that is told."""
    ports: list[dict[str, object]] = [
        {"name": "http", "port": 8080},
        {"name": "admin", "port": 9000, "protocol": "TCP"},
        {"name": "dns", "port": 53, "protocol": "UDP"},
    ]
    async with (
        KubernetesStandIn() as server,
        KubernetesDiscovery("web", server.url, port=wanted) as source,
    ):
        server.put(endpoint_slice("web-1", endpoint("10.0.0.1"), ports=ports))
        found = await source.discover()

    assert addresses(found) == ([] if expected is None else [expected])
    assert (source.last_error is None) is (expected is not None)


async def test_a_slice_for_all_ports() -> None:
    """A slice without ports is for all of them, so the number asked for is right."""
    async with (
        KubernetesStandIn() as server,
        KubernetesDiscovery("web", server.url, port=443) as source,
    ):
        server.put(endpoint_slice("web-1", endpoint("10.0.0.1"), ports=[]))

        assert addresses(await source.discover()) == ["10.0.0.1:443"]


async def test_watch() -> None:
    """Changes are told as they happen: new slices, changed ones, deleted ones."""
    async with (
        KubernetesStandIn() as server,
        KubernetesDiscovery("web", server.url, options=fast()) as source,
    ):
        server.put(endpoint_slice("web-1", endpoint("10.0.0.1")))
        async with watching(source) as watch:
            await watch.shows(["10.0.0.1:8080"])
            await eventually(lambda: server.watches, "a watch")
            server.put(endpoint_slice("web-2", endpoint("10.0.0.2")))
            await watch.shows(["10.0.0.1:8080", "10.0.0.2:8080"])
            server.put(endpoint_slice("web-1", endpoint("10.0.0.1"), endpoint("10.0.0.3")))
            await watch.shows(["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080"])
            server.delete("web-1")
            await watch.shows(["10.0.0.2:8080"])

        assert watch.failures == 0
        assert (server.lists, server.watches) == (1, [101])


async def test_a_watch_goes_on_from_the_last_bookmark() -> None:
    """A watch that ends is continued; bookmarks keep the version young while nothing happens."""
    async with (
        KubernetesStandIn() as server,
        KubernetesDiscovery("web", server.url, options=fast()) as source,
    ):
        server.put(endpoint_slice("web-1", endpoint("10.0.0.1")))
        async with watching(source) as watch:
            await eventually(lambda: server.watches == [101], "a watch")
            server.bookmark()
            server.end_watches()
            await eventually(lambda: server.watches == [101, 106], "another watch")
            server.put(endpoint_slice("web-1", endpoint("10.0.0.2")))
            await watch.shows(["10.0.0.2:8080"])

        assert len(watch.answers) == 2
        assert server.lists == 1


@pytest.mark.parametrize("as_event", [True, False])
async def test_gone(as_event: bool) -> None:
    """A version that the server has forgotten means to list again, and is no failure."""
    async with (
        KubernetesStandIn(gone_as_event=as_event) as server,
        KubernetesDiscovery("web", server.url, options=fast()) as source,
    ):
        server.put(endpoint_slice("web-1", endpoint("10.0.0.1")))
        async with watching(source) as watch:
            await eventually(lambda: server.watches == [101], "a watch")
            server.put(endpoint_slice("web-1", endpoint("10.0.0.2")), quietly=True)
            server.forget()
            server.end_watches()
            await watch.shows(["10.0.0.2:8080"])

        assert watch.failures == 0
        assert (server.lists, server.watches) == (2, [101, 101, 102])


async def test_a_lost_connection_costs_no_list() -> None:
    """After a broken connection the watch goes on from where it was."""
    async with (
        KubernetesStandIn() as server,
        KubernetesDiscovery("web", server.url, options=fast()) as source,
    ):
        server.put(endpoint_slice("web-1", endpoint("10.0.0.1")))
        async with watching(source) as watch:
            await eventually(lambda: server.watches == [101], "a watch")
            for connection in server.origin.connections:
                if connection.is_open:
                    connection.reset()
            server.put(endpoint_slice("web-1", endpoint("10.0.0.2")))
            await watch.shows(["10.0.0.2:8080"])

        assert watch.failures == 1
        assert server.watches == [101, 101]
        assert server.lists == 1


@pytest.mark.parametrize(
    "line",
    [
        b"what?\n",
        b'{"type": "ADDED", "object": {}}\n',
        b'{"type": "RENAMED", "object": {"metadata": {"name": "a", "resourceVersion": "9"}}}\n',
        b'{"type": "ADDED", "object": {"metadata": {"name": "a"}}}\n',
        b'{"type": "ERROR", "object": {"code": 500, "reason": "InternalError"}}\n',
        b"x" * 70_000,
    ],
)
async def test_garbage_in_a_watch(line: bytes) -> None:
    """What makes no sense ends the watch; the last set stays until a new list has come."""
    time = FakeTime()
    options = SourceOptions(clock=time, sleep=time.sleep, max_bytes=65536)
    async with (
        KubernetesStandIn() as server,
        KubernetesDiscovery("web", server.url, options=options) as source,
    ):
        server.put(endpoint_slice("web-1", endpoint("10.0.0.1")))
        async with watching(source) as watch:
            await eventually(lambda: server.watches == [101], "a watch")
            server.send(line)
            await watch.until(lambda: watch.failures, "a failure")
            await eventually(lambda: server.lists == 2, "another list")
            server.put(endpoint_slice("web-1", endpoint("10.0.0.2")))
            await watch.shows(["10.0.0.2:8080"])

        assert isinstance(watch.error, Error)


@pytest.mark.parametrize(
    "answer",
    [b"", b"[]", b"{}", b'{"metadata": {"resourceVersion": "1"}, "items": [7]}', b"\xff" * 99],
)
async def test_garbage_in_a_list(answer: bytes) -> None:
    """What is no list is a failure."""
    async with (
        KubernetesStandIn() as server,
        KubernetesDiscovery("web", server.url) as source,
    ):

        async def garbage(exchange: object) -> None:
            await exchange.reply(body=answer)  # type: ignore[attr-defined]

        server.origin.handler = garbage
        with pytest.raises(Error, match="DiscoveryError"):
            await source.discover()


async def test_too_many_endpoints() -> None:
    """The number of endpoints is bounded while they are read."""
    options = SourceOptions(max_backends=3)
    async with (
        KubernetesStandIn() as server,
        KubernetesDiscovery("web", server.url, options=options) as source,
    ):
        for number in range(2):
            pods = [endpoint(f"10.0.{number}.{host}") for host in range(2)]
            server.put(endpoint_slice(f"web-{number}", *pods))
        with pytest.raises(Error, match="more than 3 endpoints"):
            await source.discover()


async def test_inside_a_cluster(
    authority: CertificateAuthority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Address, namespace, token and authority come from the pod; a new token is used at once."""
    caplog.set_level(logging.DEBUG)
    certificate = authority.issue("127.0.0.1")
    (tmp_path / "namespace").write_text("default\n")
    (tmp_path / "token").write_text("first-secret\n")
    (tmp_path / "ca.crt").write_bytes(authority.cert_pem)
    async with KubernetesStandIn(token="first-secret", tls=certificate.server_context()) as server:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.origin.port))
        async with KubernetesDiscovery.in_cluster("web", account=str(tmp_path)) as source:
            server.put(endpoint_slice("web-1", endpoint("10.0.0.1")))
            assert addresses(await source.discover()) == ["10.0.0.1:8080"]

            server.token = "second-secret"
            with pytest.raises(Error, match="401, the token is not accepted") as refused:
                await source.discover()
            replacement = tmp_path / "new"
            replacement.write_text("second-secret\n")
            replacement.rename(tmp_path / "token")
            assert addresses(await source.discover()) == ["10.0.0.1:8080"]

    assert "secret" not in caplog.text + str(refused.value) + repr(source)


def test_outside_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what a pod has, the failure says so."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(Error, match="does not seem to be a pod"):
        KubernetesDiscovery.in_cluster("web", account=str(tmp_path))


async def test_an_untrusted_server(authority: CertificateAuthority) -> None:
    """A certificate that is not below the given authority is refused."""
    certificate = authority.issue("127.0.0.1")
    async with KubernetesStandIn(tls=certificate.server_context()) as server:
        async with KubernetesDiscovery("web", server.url) as source:
            with pytest.raises(Error, match="InvalidCert"):
                await source.discover()
        access = HttpAccess(ca_file=str(authority.cert_path))
        async with KubernetesDiscovery("web", server.url, access=access) as source:
            assert addresses(await source.discover()) == []
