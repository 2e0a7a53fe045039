"""The snippets of the page about the PROXY protocol, on both sides."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from pingora_core import ServerConf
from pingora_core.listeners import ProxyProtocolSettings
from pingora_core.protocols.proxy_protocol import ProxyHeader
from pingora_proxy import ProxyHttp, http_proxy_service
from pingora_proxy.testing import RunningService, make_session
from tests.support.certificates import CertificateAuthority
from tests.support.recipe_modules import load_recipe

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from pingora_core import HttpPeer
    from pingora_proxy import Session

recipe = load_recipe("proxy_protocol_parts")


async def _ask(address: str, client: str) -> bytes:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(f"PROXY TCP4 {client} 192.0.2.1 40000 80\r\n".encode())
        writer.write(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


class _Answering(ProxyHttp[None]):
    def new_ctx(self) -> None:
        return None

    async def request_filter(self, session: Session, ctx: None) -> bool:
        return await session.respond_problem(403, str(session.client_addr))

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        raise AssertionError


async def test_listeners_believe_balancers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TCP, TLS and Unix sockets take the settings."""
    (tmp_path / "authority").mkdir()
    issued = CertificateAuthority(tmp_path / "authority").issue("site.test")
    (tmp_path / "site.pem").write_bytes(issued.chain_path.read_bytes())
    (tmp_path / "site.key").write_bytes(issued.key_path.read_bytes())
    monkeypatch.chdir(tmp_path)
    service = http_proxy_service(ServerConf(), _Answering())
    recipe.accept(service)
    listening = str(service.listen_addresses)
    for address in ("0.0.0.0:80", "0.0.0.0:443", "/run/proxy.sock"):
        assert address in listening


async def test_clients_are_filtered_by_what_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The filter of the settings is asked about the client; nobody else may announce one."""
    closed = http_proxy_service(ServerConf(), _Answering())
    recipe.accept_some(closed, "127.0.0.1:0")
    async with RunningService(closed) as running:
        assert await _ask(running.address, "198.51.100.7") == b""

    def local(networks: list[str], client_filter: object) -> ProxyProtocolSettings:
        assert networks == ["10.0.0.0/8"]
        return ProxyProtocolSettings(["127.0.0.0/8"], client_filter=client_filter)  # type: ignore[arg-type]

    monkeypatch.setattr(recipe, "ProxyProtocolSettings", local)
    service = http_proxy_service(ServerConf(), _Answering())
    recipe.accept_some(service, "127.0.0.1:0")
    async with RunningService(service) as running:
        ask = partial(_ask, running.address)
        assert b"198.51.100.7:40000" in await ask("198.51.100.7")
        assert await ask("203.0.113.7") == b""


async def test_a_header_for_the_origin() -> None:
    """It is set in the options of the peer, and may say more."""
    session = make_session()
    peer = await recipe.Announcing().upstream_peer(session, None)
    assert peer.sni == "origin.example"
    assert peer.options.send_proxy_protocol == ProxyHeader.from_digest(session.digest)
    assert recipe.header_for(session, b"42").unique_id == b"42"
