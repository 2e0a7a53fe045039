"""The snippets of the page about discovery find backends, in stand-ins for what knows them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pingora_core import Server
from pingora_error import Error
from pingora_load_balancing import Backend, LoadBalancer
from pingora_load_balancing.discovery import KubernetesDiscovery, consul, dns, http
from pingora_load_balancing.discovery._http_client import HttpClient
from tests.support.certificates import CertificateAuthority
from tests.support.discovery_consul import ConsulStandIn, instance
from tests.support.discovery_dns import DnsResponder
from tests.support.discovery_kubernetes import KubernetesStandIn, endpoint, endpoint_slice
from tests.support.discovery_watch import addresses
from tests.support.leaks import LeakCheck
from tests.support.origin import Origin
from tests.support.origin_steps import reply
from tests.support.recipe_modules import load_recipe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pingora_load_balancing.discovery import HttpAccess
    from tests.support.certificates import IssuedCertificate

recipe = load_recipe("discovery")

_TWO = "[10.0.0.1:8080, 10.0.0.2:8080]"


@pytest.fixture(autouse=True)
async def _no_leaks() -> AsyncIterator[None]:
    """Every test closes what it opens."""
    async with LeakCheck():
        yield


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> IssuedCertificate:
    """What a pod has, in a folder; the certificate is for the API server."""
    folder = tmp_path / "certificates"
    folder.mkdir()
    authority = CertificateAuthority(folder)
    (tmp_path / "namespace").write_text("default")
    (tmp_path / "token").write_text("secret")
    (tmp_path / "ca.crt").write_bytes(authority.cert_pem)
    defaults = KubernetesDiscovery.in_cluster.__func__.__kwdefaults__  # type: ignore[attr-defined]
    monkeypatch.setitem(defaults, "account", str(tmp_path))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    monkeypatch.chdir(tmp_path)
    return authority.issue("127.0.0.1")


async def test_a_file_fills_the_load_balancer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The background service is what asks: nothing is there before."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "backends.yaml").write_text(_TWO)
    upstreams = recipe.follow_a_file(Server())
    assert upstreams.select(b"", 256) is None
    assert await upstreams.update()
    assert [str(upstreams.select(b"", 256)) for _ in range(2)] == ["10.0.0.1:8080", "10.0.0.2:8080"]


async def test_sources_over_http(
    pod: IssuedCertificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An inventory, Consul and Kubernetes are asked with the tokens of the files."""
    asked: list[tuple[str, str | None]] = []

    def elsewhere(
        base: str, url: str, access: HttpAccess, token_field: tuple[str, str] = ("", "")
    ) -> HttpClient:
        asked.append((url, access.token_file))
        files = replace(
            access, token_file=str(tmp_path / "token"), ca_file=str(tmp_path / "ca.crt")
        )
        return HttpClient(base, files, token_field=token_field)

    tls = pod.server_context()
    async with (
        Origin(reply(body=b'["10.0.0.1:8080"]'), tls=tls) as origin,
        ConsulStandIn(token="secret") as agent,
        KubernetesStandIn(token="secret", tls=tls) as cluster,
    ):
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(cluster.origin.port))
        inventory_url = f"https://{origin.address}/backends"
        bearer = partial(elsewhere, inventory_url, token_field=("Authorization", "Bearer "))
        monkeypatch.setattr(http, "HttpClient", bearer)
        monkeypatch.setattr(consul, "HttpClient", partial(elsewhere, agent.url))
        agent.set(instance("a", 8080, address="10.0.0.2", tags=("v2",)))
        ports: list[dict[str, object]] = [
            {"name": "http", "port": 8080, "protocol": "TCP"},
            {"name": "metrics", "port": 9090, "protocol": "TCP"},
        ]
        cluster.put(endpoint_slice("web-1", endpoint("10.0.0.3"), ports=ports))

        found = []
        for source in recipe.ask_over_http():
            async with source:
                found += addresses(await source.discover())

    assert found == ["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080"]
    assert asked == [
        ("https://inventory.internal/backends", "/run/secrets/token"),
        ("https://consul.internal:8501", "/run/secrets/consul"),
    ]
    (request,) = origin.requests
    assert request.get("authorization") == "Bearer secret"
    assert "dc=eu1" in agent.origin.requests[0].target


async def test_names_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses of names, a service's targets, and the name for TLS in the metadata."""
    async with DnsResponder() as server:
        server.set("app.internal.", "A", ["10.0.0.1"])
        server.set("app.internal.", "AAAA", [])
        server.set("app.other.internal.", "A", ["10.0.0.2"])
        server.set("app.other.internal.", "AAAA", [])
        server.set("_http._tcp.app.internal.", "SRV", ["10 1 8081 app.internal."])
        options = partial(dns.DnsOptions, nameservers=(server.address,), search=False)
        given: list[object] = []

        def local(*, nameservers: tuple[str, ...], max_ttl: float) -> dns.DnsOptions:
            given.append((nameservers, max_ttl))
            return options(max_ttl=max_ttl)

        monkeypatch.setattr(dns, "DnsOptions", options)
        monkeypatch.setattr(recipe, "DnsOptions", local)
        names, service = recipe.ask_name_servers()
        async with names, service:
            backends = list((await names.discover()).backends)
            targets = addresses(await service.discover())

    assert [str(backend) for backend in backends] == ["10.0.0.1:8080", "10.0.0.2:8080"]
    assert targets == ["10.0.0.1:8081"]
    assert given == [(("10.0.0.2", "10.0.0.3:5353"), 60.0)]
    assert [recipe.peer_of(backend).sni for backend in backends] == [
        "app.internal",
        "app.other.internal",
    ]
    assert recipe.priority(Backend("10.0.0.1:80")) == 0


async def test_the_next_priority_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets of a worse priority get requests when the better ones are out of use."""
    async with DnsResponder() as server:
        for number in (1, 2):
            server.set(f"host{number}.internal.", "A", [f"10.0.0.{number}"])
            server.set(f"host{number}.internal.", "AAAA", [])
        records = ["10 1 80 host1.internal.", "20 1 80 host2.internal."]
        server.set("_http._tcp.app.internal.", "SRV", records)
        options = partial(dns.DnsOptions, nameservers=(server.address,), search=False)
        monkeypatch.setattr(dns, "DnsOptions", options)
        upstreams = recipe.use_the_best()
        assert await upstreams.update()

    best = upstreams.select(b"", 256)
    assert {str(upstreams.select(b"", 256)) for _ in range(4)} == {"10.0.0.1:80"}
    upstreams.set_enable(best, False)
    assert str(upstreams.select(b"", 256)) == "10.0.0.2:80"


async def test_answers_that_are_too_small_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fewer backends than ``min_backends`` an answer is none, and the last one stays."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "backends.yaml"
    file.write_text(_TWO)
    options, careful = recipe.doubt()
    good = await careful.discover()
    file.write_text("[10.0.0.1:8080]")
    with pytest.raises(Error):
        await careful.discover()
    assert careful.answer == good
    assert (careful.failures, options.max_loss) == (1, 0.5)


async def test_sources_are_combined(
    pod: IssuedCertificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A union goes on without a source that fails; the next source takes the place of one."""

    def nowhere(url: str, access: HttpAccess, **more: tuple[str, str]) -> HttpClient:
        assert url == "http://127.0.0.1:8500"
        return HttpClient("http://127.0.0.1:1", access)

    monkeypatch.setattr(consul, "HttpClient", nowhere)
    (tmp_path / "static.yaml").write_text(_TWO)
    (tmp_path / "backup.yaml").write_text("[10.0.0.9:8080]")
    everything, first = recipe.combine()
    assert "2 sources" in repr(everything)
    for source, backends in ((everything, ["10.0.0.1:8080", "10.0.0.2:8080"]), (first, None)):
        found = addresses(await source.discover())
        assert found == (backends or ["10.0.0.9:8080"])
        assert [error is None for error in source.last_errors] == (
            [True, False] if backends else [False, True]
        )
        await source.close()


async def test_a_source_of_your_own() -> None:
    """Any object with ``discover`` will do."""
    upstreams = LoadBalancer(discovery=recipe.Inventory())
    assert await upstreams.update()
    weights = {str(backend): backend.weight for backend in upstreams.backends}
    assert weights == {"10.0.0.1:8080": 1, "10.0.0.2:8080": 3}
