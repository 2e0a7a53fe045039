"""Listening with TLS: the snippets of docs/how-to/tls.md."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

# --8<-- [start:settings-imports]
from pingora_core.listeners.tls import TlsSettings

# --8<-- [end:settings-imports]
# isort: split
# --8<-- [start:acceptor-imports]
from pingora_core.listeners import TcpServerAddress
from pingora_core.listeners.tls import TlsAcceptor

# --8<-- [end:acceptor-imports]
# isort: split
# --8<-- [start:store-imports]
from pingora_core.listeners.tls import CertificateStore

# --8<-- [end:store-imports]
# isort: split
# --8<-- [start:accept-imports]
from pingora_core.listeners.tls import TlsAccept, TlsAlert
from pingora_core.protocols.tls import CertKey

# --8<-- [end:accept-imports]
# isort: split
# --8<-- [start:clients-imports]
from pingora_core.listeners.tls import ClientAuth, ClientAuthMode

# --8<-- [end:clients-imports]
# isort: split
# --8<-- [start:forward-imports]
from pingora_core.modules import ClientCertBuilder

# --8<-- [end:forward-imports]
# isort: split
from pingora_core import HttpPeer, Server, Service
from pingora_core.listeners.tls import PendingHandshake
from pingora_core.modules import HttpModules
from pingora_core.protocols.tls import TlsStream
from pingora_core.protocols.tls.client_hello import ClientHello
from pingora_proxy import HttpProxy, ProxyHttp, Session, http_proxy_service


# --8<-- [start:forward]
class Gateway(ProxyHttp[None]):
    """Tells the origin who the client is."""

    def init_downstream_modules(self, modules: HttpModules) -> None:
        modules.add_module(ClientCertBuilder())

    # --8<-- [end:forward]

    def __init__(self, upstream: str) -> None:
        self.peer = HttpPeer(upstream)

    def new_ctx(self) -> None:
        return None

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        return self.peer


def serve(server: Server, app: Gateway, certs: Path) -> Service[HttpProxy[None]]:
    """Listen with TLS as most clients want it."""
    # --8<-- [start:serve]
    service = http_proxy_service(server.configuration, app)
    service.add_tls("0.0.0.0:443", certs / "chain.pem", certs / "key.pem")
    # --8<-- [end:serve]
    return service


def change_settings(service: Service[HttpProxy[None]], certs: Path) -> TlsSettings:
    """Listen with settings of one's own."""
    # --8<-- [start:settings]
    settings = TlsSettings.intermediate(certs / "chain.pem", certs / "key.pem")
    settings.enable_h2()  # HTTP/2, or else HTTP/1.1
    settings.groups = ("X25519MLKEM768", "X25519")
    settings.session_timeout = 3600.0
    service.add_tls_with_settings("0.0.0.0:443", None, settings)
    # --8<-- [end:settings]
    return settings


def listen(service: Service[HttpProxy[None]], settings: TlsSettings) -> TlsAcceptor:
    """Listen, and keep what can be told to read its files again."""
    # --8<-- [start:acceptor]
    acceptor = TlsAcceptor(settings)
    service.add_endpoint(TcpServerAddress("0.0.0.0:443"), acceptor=acceptor)
    # --8<-- [end:acceptor]
    return acceptor


async def read_again(acceptor: TlsAcceptor) -> list[str]:
    """Read all files at once, and tell why what could not be used was refused."""
    # --8<-- [start:reload]
    refused = await acceptor.reload()
    # --8<-- [end:reload]
    return [str(error) for error in refused]


def many_names(certs: Path) -> TlsSettings:
    """Serve each name with its own certificate."""
    # --8<-- [start:store]
    store = CertificateStore()
    store.add_files(certs / "a.pem", certs / "a.key")
    store.add_files(certs / "wildcard.pem", certs / "wildcard.key", ["*.b.example"])
    store.add_files(certs / "fallback.pem", certs / "fallback.key", default=True)
    settings = TlsSettings(certificates=store)
    # --8<-- [end:store]
    assert settings.certificates is store
    return settings


@dataclass
class Row:
    """What is known of a name.

    Attributes:
        tenant: Whose it is.
        chain: Its certificate, PEM.
        key: The private key of that, PEM.
    """

    tenant: str
    chain: bytes
    key: bytes


@dataclass
class Database:
    """Where the names are; think of a real one.

    Attributes:
        rows: By name.
    """

    rows: dict[str, Row] = field(default_factory=dict)

    async def find(self, name: str | None) -> Row | None:
        """Find what is known of a name."""
        return self.rows.get(name or "")

    async def tenant(self, name: str | None) -> str | None:
        """Find whose a name is."""
        row = await self.find(name)
        return None if row is None else row.tenant


database = Database()


# --8<-- [start:accept]
class Tenants(TlsAccept):
    """Finds certificates and tenants in a database."""

    async def certificate_callback(
        self, hello: ClientHello, handshake: PendingHandshake
    ) -> CertKey | TlsAlert:
        row = await database.find(hello.server_name)
        if row is None:
            return TlsAlert.UNRECOGNIZED_NAME
        return CertKey.from_pem(row.chain, row.key)

    async def handshake_complete_callback(self, stream: TlsStream) -> str | None:
        tls = stream.digest.ssl_digest
        return None if tls is None else await database.tenant(tls.sni)


settings = TlsSettings(callbacks=Tenants())
# --8<-- [end:accept]


def ask_clients(settings: TlsSettings, certs: Path) -> None:
    """Refuse clients without a certificate."""
    # --8<-- [start:clients]
    authorities, revoked = certs / "clients-ca.pem", certs / "revoked.pem"
    settings.client_auth = ClientAuth.from_files(authorities, crl_path=revoked)
    # --8<-- [end:clients]


def ask_clients_kindly(settings: TlsSettings, certs: Path) -> None:
    """Serve clients without a certificate too."""
    mode = ClientAuthMode.REQUEST
    settings.client_auth = ClientAuth.from_files(certs / "clients-ca.pem", mode)


def staple(certs: Path) -> TlsSettings:
    """Send a response of the authority along."""
    chain, key = certs / "chain.pem", certs / "key.pem"
    # --8<-- [start:ocsp]
    settings = TlsSettings.intermediate(chain, key, ocsp_path=certs / "ocsp.der")
    # --8<-- [end:ocsp]
    assert settings.watched
    return settings
