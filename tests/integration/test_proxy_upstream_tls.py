"""TLS to the upstream: what is verified, what is presented, and what may share a connection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from pingora_core.conf import ServerConf
from pingora_core.protocols.tls.certificate import CaBundle, CertKey
from pingora_core.upstreams import HttpPeer, PeerOptions
from pingora_error import ErrorSource, ErrorType
from tests.support.certificates import CertificateAuthority
from tests.support.origin import Origin
from tests.support.origin_routes import rig
from tests.support.proxy import RigProxy, RunningProxy
from tests.support.wire import Truncated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from pingora_proxy import Session
    from tests.support.client import Response
    from tests.support.origin import Exchange


@dataclass(slots=True)
class Secure:
    """A TLS origin and the authorities around it.

    Attributes:
        root: What clients trust.
        clients: What the origin of ``mutual`` trusts.
        origin: A TLS origin for ``openrusty.org`` and its sub-domains.
        mutual: The same, with a client certificate required.
    """

    root: CertificateAuthority
    clients: CertificateAuthority
    origin: Origin
    mutual: Origin

    def options(
        self,
        *,
        verify_cert: bool = True,
        verify_hostname: bool = True,
        alternative_cn: str | None = None,
    ) -> PeerOptions:
        """Make peer options that trust the root."""
        options = PeerOptions.default()
        options.ca = CaBundle.from_file(self.root.cert_path)
        options.verify_cert = verify_cert
        options.verify_hostname = verify_hostname
        options.alternative_cn = alternative_cn
        return options


@pytest.fixture
async def secure(tmp_path: Path) -> AsyncIterator[Secure]:
    """Two TLS origins; their certificate comes from an intermediate."""
    root = CertificateAuthority(tmp_path)
    clients = CertificateAuthority(tmp_path, "Client Root")
    issued = root.intermediate().issue("openrusty.org", "*.openrusty.org")
    async with (
        Origin(rig, tls=issued.server_context()) as origin,
        Origin(rig, tls=issued.server_context(client_ca=clients)) as mutual,
    ):
        yield Secure(root, clients, origin, mutual)


async def fetch(*peers: HttpPeer) -> list[Response]:
    """Send one GET through one proxy to each of some peers, in order."""
    waiting = list(peers)

    def next_peer(session: Session) -> HttpPeer:
        return waiting.pop(0)

    responses: list[Response] = []
    async with RunningProxy(RigProxy(next_peer)) as proxy:
        for _ in peers:
            async with await proxy.connect() as client:
                responses.append(await client.request("GET", "/"))
    return responses


async def status(peer: HttpPeer) -> int:
    """Send one GET to a peer and return the status."""
    [response] = await fetch(peer)
    return response.status


async def test_tls_no_verify(secure: Secure) -> None:
    """With verification off nothing is verified."""
    peer = HttpPeer(secure.origin.address, tls=True, options=secure.options(verify_cert=False))
    assert await status(peer) == 200


async def test_tls_untrusted_root(secure: Secure) -> None:
    """By default the certificate must be trusted: 502, and not a byte of the request is sent."""
    peer = HttpPeer(secure.origin.address, tls=True, sni="openrusty.org")
    [response] = await fetch(peer)

    assert (response.status, response.get("connection")) == (502, "close")
    assert not secure.origin.requests


async def test_tls_verify_sni_not_host(secure: Secure) -> None:
    """The chain may be verified without the name."""
    peer = HttpPeer(
        secure.origin.address,
        tls=True,
        sni="abc.com",
        options=secure.options(verify_hostname=False),
    )
    assert await status(peer) == 200


async def test_tls_none_verify_host(secure: Secure, tmp_path: Path) -> None:
    """Without an SNI the address is verified, never nothing (unlike in the original)."""
    by_name = HttpPeer(secure.origin.address, tls=True, options=secure.options())
    issued = secure.root.issue("127.0.0.1")
    async with Origin(rig, tls=issued.server_context()) as origin:
        by_address = HttpPeer(origin.address, tls=True, options=secure.options())

        assert await status(by_name) == 502
        assert await status(by_address) == 200


async def test_tls_verify_sni_host(secure: Secure) -> None:
    """Chain and name are verified, the name also by wildcard."""
    for sni in ("openrusty.org", "dog.openrusty.org"):
        peer = HttpPeer(secure.origin.address, tls=True, sni=sni, options=secure.options())
        assert await status(peer) == 200


async def test_tls_wrong_host(secure: Secure) -> None:
    """A trusted certificate for another name is refused."""
    peer = HttpPeer(secure.origin.address, tls=True, sni="abc.com", options=secure.options())
    assert await status(peer) == 502


async def test_tls_expired(secure: Secure) -> None:
    """An expired certificate is refused."""
    issued = secure.root.issue("openrusty.org", expired=True)
    async with Origin(rig, tls=issued.server_context()) as origin:
        peer = HttpPeer(origin.address, tls=True, sni="openrusty.org", options=secure.options())
        assert await status(peer) == 502


async def test_tls_underscore_sub_sni_verify_host(secure: Secure) -> None:
    """An underscore in a sub-domain counts as a dash."""
    peer = HttpPeer(
        secure.origin.address, tls=True, sni="d_g.openrusty.org", options=secure.options()
    )
    assert await status(peer) == 200


async def test_tls_underscore_non_sub_sni_verify_host(secure: Secure) -> None:
    """An underscore elsewhere does not."""
    peer = HttpPeer(secure.origin.address, tls=True, sni="open_rusty.org", options=secure.options())
    [response] = await fetch(peer)

    assert (response.status, response.get("connection")) == (502, "close")


@pytest.mark.parametrize(
    ("alternative", "expected"),
    [("dog.openrusty.org", 200), ("d_g.openrusty.org", 200), ("open_rusty.org", 502)],
    ids=["plain", "underscore_sub", "underscore_non_sub"],
)
async def test_tls_alt_verify_host(secure: Secure, alternative: str, expected: int) -> None:
    """An alternative name is accepted when the SNI does not match, by the same rules."""
    options = secure.options(alternative_cn=alternative)
    peer = HttpPeer(secure.origin.address, tls=True, sni="cat.com", options=options)
    assert await status(peer) == expected


async def test_ca_file_of_the_configuration(secure: Secure) -> None:
    """``ca_file`` replaces the system's authorities for all peers."""
    conf = ServerConf(ca_file=str(secure.root.cert_path))

    def peer(session: Session) -> HttpPeer:
        return HttpPeer(secure.origin.address, tls=True, sni="openrusty.org")

    async with RunningProxy(RigProxy(peer), conf=conf) as proxy, await proxy.connect() as client:
        assert (await client.request("GET", "/")).status == 200


# ---------------------------------------------------------------------------- client certificate


def _certified(secure: Secure, *, with_chain: bool = True) -> CertKey:
    issued = secure.clients.intermediate().issue("client.test", client=True)
    return CertKey.from_files(
        issued.chain_path if with_chain else issued.cert_path, issued.key_path
    )


def _mutual(secure: Secure, certificate: CertKey | None) -> HttpPeer:
    return HttpPeer(
        secure.mutual.address,
        tls=True,
        sni="openrusty.org",
        client_cert_key=certificate,
        options=secure.options(),
    )


async def test_mtls(secure: Secure) -> None:
    """A client certificate with its intermediate is presented and accepted."""
    assert await status(_mutual(secure, _certified(secure))) == 200


async def test_mtls_no_client_cert(secure: Secure) -> None:
    """An origin that asks for a certificate and gets none is a 502."""
    assert await status(_mutual(secure, None)) == 502


async def test_mtls_no_intermediate_cert(secure: Secure) -> None:
    """A certificate whose chain is incomplete is refused by the origin."""
    assert await status(_mutual(secure, _certified(secure, with_chain=False))) == 502


# --------------------------------------------------------------------------------- the reuse key


async def test_tls_same_peer_reuses(secure: Secure) -> None:
    """Equal peers share a TLS connection."""
    responses = await fetch(
        *(
            HttpPeer(secure.origin.address, tls=True, sni="openrusty.org", options=secure.options())
            for _ in range(2)
        )
    )
    assert [response.get("x-conn-reuse") for response in responses] == ["0", "1"]


async def test_mtls_diff_cert_no_reuse(secure: Secure) -> None:
    """Another client certificate is another connection."""
    first = _certified(secure)
    responses = await fetch(
        _mutual(secure, first), _mutual(secure, _certified(secure)), _mutual(secure, first)
    )
    assert [response.get("x-conn-reuse") for response in responses] == ["0", "0", "1"]


def _no_verify(secure: Secure) -> PeerOptions:
    return secure.options(verify_cert=False)


def _no_hostname(secure: Secure) -> PeerOptions:
    return secure.options(verify_hostname=False)


def _alternative(secure: Secure) -> PeerOptions:
    return secure.options(alternative_cn="x.openrusty.org")


def _other_roots(secure: Secure) -> PeerOptions:
    options = secure.options()
    options.ca = CaBundle.from_pem(secure.root.cert_pem + secure.clients.cert_pem)
    return options


@pytest.mark.parametrize(
    "different",
    [_no_verify, _no_hostname, _alternative, _other_roots],
    ids=["verify", "verify_host", "alt_cn", "roots"],
)
async def test_tls_diff_no_reuse(
    secure: Secure, different: Callable[[Secure], PeerOptions]
) -> None:
    """Whatever decides whom a connection trusts is part of the reuse key."""
    responses = await fetch(
        HttpPeer(secure.origin.address, tls=True, sni="openrusty.org", options=different(secure)),
        HttpPeer(secure.origin.address, tls=True, sni="openrusty.org", options=secure.options()),
    )
    assert [response.get("x-conn-reuse") for response in responses] == ["0", "0"]
    assert [response.status for response in responses] == [200, 200]


async def test_tls_truncated_response_is_not_complete(secure: Secure) -> None:
    """A close-delimited body that ends without TLS's goodbye is not taken for whole."""

    async def cut(exchange: Exchange) -> None:
        await exchange.reply(body=b"until the end", length=None)
        exchange.reset()

    secure.origin.handler = cut
    peer = HttpPeer(secure.origin.address, tls=True, sni="openrusty.org", options=secure.options())
    with pytest.raises(Truncated):
        await fetch(peer)


async def test_a_client_that_closes_a_websocket_over_tls_ends_it(secure: Secure) -> None:
    """TLS cannot pass the half-close on, so both sides end; the client is told to have closed."""
    peer = HttpPeer(secure.origin.address, tls=True, sni="openrusty.org", options=secure.options())
    app = RigProxy(lambda session: peer)
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        await client.send(
            b"GET /upgrade_echo_body HTTP/1.1\r\nHost: a\r\n"
            b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\nping"
        )
        await client.read_head()
        assert await client.receive_exactly(4) == b"ping"
        client.half_close()
        ending = await app.ended()
    await secure.origin.all_closed()

    assert ending.error is not None
    assert ending.error.esource is ErrorSource.DOWNSTREAM
    assert ending.error.root_etype is ErrorType.CONNECTION_CLOSED
