"""What a user can decide during a handshake: which certificate, or a refusal."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pingora_core.listeners.tls.client_auth import ClientAuth
    from pingora_core.protocols.digest import Digest
    from pingora_core.protocols.tls.alpn import AlpnOffer
    from pingora_core.protocols.tls.certificate import CertKey
    from pingora_core.protocols.tls.client_hello import ClientHello
    from pingora_core.protocols.tls.stream import TlsStream

__all__ = ["PendingHandshake", "TlsAccept", "TlsAlert"]


class TlsAlert(IntEnum):
    """Why a client is turned away, as it is told (RFC 8446 section 6.2).

    Attributes:
        HANDSHAKE_FAILURE: What it offers is not enough.
        ACCESS_DENIED: It may not connect.
        DECODE_ERROR: What it sent cannot be read.
        PROTOCOL_VERSION: The version it speaks is not accepted.
        INTERNAL_ERROR: A fault on this side.
        MISSING_EXTENSION: It has to name the server it wants.
        UNRECOGNIZED_NAME: There is no such server here.
        NO_APPLICATION_PROTOCOL: None of the protocols it offers is spoken.
    """

    HANDSHAKE_FAILURE = 40
    ACCESS_DENIED = 49
    DECODE_ERROR = 50
    PROTOCOL_VERSION = 70
    INTERNAL_ERROR = 80
    MISSING_EXTENSION = 109
    UNRECOGNIZED_NAME = 112
    NO_APPLICATION_PROTOCOL = 120


class PendingHandshake:
    """A handshake of which only the ClientHello has been read.

    Attributes:
        digest: What is known about the connection below, such as the client's address.
        alpn: Protocols to choose from; may be replaced, for this connection alone.
        client_auth: Whether and how the client must identify itself; may be replaced likewise.
    """

    __slots__ = ("alpn", "client_auth", "digest")

    def __init__(self, digest: Digest, alpn: AlpnOffer, client_auth: ClientAuth | None) -> None:
        self.digest: Digest = digest
        self.alpn: AlpnOffer = alpn
        self.client_auth: ClientAuth | None = client_auth


class TlsAccept:
    """Callbacks of a TLS listener; override what you need.

    Both may await anything. The handshake's deadline covers them: when it passes they are
    cancelled and the connection is closed.

    Source: trait TlsAccept in pingora-core/src/listeners/mod.rs. Unlike there the callback can
    refuse, and it sees all of the ClientHello.
    """

    async def certificate_callback(
        self,
        hello: ClientHello,  # noqa: ARG002 - for those who override it
        handshake: PendingHandshake,  # noqa: ARG002
    ) -> CertKey | TlsAlert | None:
        """Choose the certificate for a connection.

        An `Error` that this raises refuses the connection: with ``internal_error`` if the error's
        source is this process or an upstream, with ``access_denied`` otherwise. Any other
        exception is a fault, told as ``internal_error`` too.

        Args:
            hello: What the client has asked for.
            handshake: The connection, and what may be decided beside the certificate.

        Returns:
            The certificate; an alert to refuse with; None to leave the choice to the store.
        """
        return None

    async def handshake_complete_callback(
        self,
        stream: TlsStream,  # noqa: ARG002
    ) -> object | None:
        """Look at a connection whose handshake is done.

        An exception closes the connection.

        Args:
            stream: The connection; its ``digest`` holds all facts. Reading and writing is for
                the application.

        Returns:
            What the layers above find in ``digest.ssl_digest.extension``.
        """
        return None
