"""Key exchange groups, negotiated between this package's client and its server."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from pingora_core.protocols.l4 import L4Stream
from pingora_core.protocols.tls import TlsStream
from pingora_core.upstreams import HttpPeer, PeerOptions
from tests.unit.pingora_core.connectors.rig import connector, exchange
from tests.unit.pingora_core.protocols.tls.rig import server_connection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pingora_core.protocols.digest import SslDigest
    from pingora_core.protocols.tls import CaBundle
    from tests.support.certificates import IssuedCertificate

pytestmark = pytest.mark.usefixtures("no_leaks")


@dataclass
class TlsOrigin:
    """A server that echoes once.

    Attributes:
        address: Where it listens.
        digests: What its side knows about the handshakes.
    """

    address: str = ""
    digests: list[SslDigest | None] = field(default_factory=list)


@asynccontextmanager
async def tls_origin(
    certificate: IssuedCertificate, groups: str | None = None
) -> AsyncIterator[TlsOrigin]:
    loop = asyncio.get_running_loop()
    seen = TlsOrigin()
    tasks: list[asyncio.Task[None]] = []

    async def serve(inner: L4Stream) -> None:
        stream = TlsStream(inner, server_connection(certificate, groups=groups))
        await stream.handshake(5.0)
        seen.digests.append(stream.digest.ssl_digest)
        stream.write(await stream.read(5.0))
        stream.close()
        await stream.wait_closed()

    def accept(inner: L4Stream) -> None:
        tasks.append(loop.create_task(serve(inner)))

    server = await loop.create_server(lambda: L4Stream(loop, on_connected=accept), "127.0.0.1", 0)
    seen.address = "{}:{}".format(*server.sockets[0].getsockname())
    try:
        yield seen
    finally:
        server.close()
        await server.wait_closed()
        await asyncio.gather(*tasks)


@pytest.mark.parametrize(
    ("client_groups", "server_groups", "negotiated"),
    [
        pytest.param(None, None, "X25519MLKEM768", id="both_have_it"),
        pytest.param(None, "X25519:P-256", "X25519", id="the_server_lacks_it"),
        pytest.param("X25519:P-256", None, "X25519", id="the_client_lacks_it"),
        pytest.param(None, "P-256", "secp256r1", id="hello_retry_request"),
        pytest.param("SecP256r1MLKEM768", None, "SecP256r1MLKEM768", id="another_post_quantum_one"),
    ],
)
@pytest.mark.parametrize("second_keyshare", [True, False])
async def test_the_negotiated_group(
    server_certificate: IssuedCertificate,
    ca: CaBundle,
    client_groups: str | None,
    server_groups: str | None,
    negotiated: str,
    second_keyshare: bool,
) -> None:
    """Post-quantum by default where both can, else the best of both; both sides can tell."""
    options = PeerOptions(ca=ca, curves=client_groups, second_keyshare=second_keyshare)
    async with tls_origin(server_certificate, server_groups) as server, connector() as transport:
        stream = await transport.new_stream(HttpPeer(server.address, tls=True, options=options))
        client = stream.digest.ssl_digest
        assert await exchange(stream) == b"ping"

    assert client is not None
    assert client.version == "TLSv1.3"
    assert client.group == negotiated
    assert [None if digest is None else digest.group for digest in server.digests] == [negotiated]
