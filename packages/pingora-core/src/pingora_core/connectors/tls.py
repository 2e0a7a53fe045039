"""The client side of TLS: whom to trust, what to offer, and the handshake.

Theory of operation. Who a peer must prove to be belongs to one connection and is checked in OpenSSL's
verify callback, which means: before a client certificate is sent, and with an alert to the peer. A
session is resumed only if all that decided about the verification is the same as when it was made.

Verification has two switches. Without ``verify_cert`` nothing is checked. Without ``verify_hostname``
anybody with a trusted certificate is accepted. Otherwise the certificate must be for the SNI; a
peer without one must be the host that was looked up or the IP address that was connected to.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final

from OpenSSL import SSL

from pingora_core.connectors._contexts import ClientContexts
from pingora_core.connectors._sessions import (
    SessionCache,
    SessionKeeper,
    Trust,
)
from pingora_core.protocols.address import HostAddress, InetAddress
from pingora_core.protocols.tls.digest import read_certificate
from pingora_core.protocols.tls.openssl import is_peer_verified, is_resumed
from pingora_core.protocols.tls.stream import TlsStream
from pingora_core.protocols.tls.verify import (
    ReferenceIdentity,
    as_ip_address,
    normalize_host_name,
)
from pingora_error import TLS_CONFIG_ERROR, Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    from cryptography import x509
    from OpenSSL import crypto

    from pingora_core.connectors._sessions import (
        StoredSession,
    )
    from pingora_core.connectors.options import ConnectorOptions
    from pingora_core.protocols.interfaces import Stream
    from pingora_core.protocols.tls.alpn import AlpnOffer
    from pingora_core.upstreams.hooks import TlsHandshakeHook
    from pingora_core.upstreams.peer import Peer

__all__ = ["TlsConnector"]

# Characters of the names of a wrong certificate that an error tells.
_MAX_NAMES: Final = 200
_CODE_NAMES: Final = {
    code: name.removeprefix("ERR_").replace("_", " ").lower()
    for name, code in vars(SSL.X509VerificationCodes).items()
    if name.startswith("ERR_")
}


class _Verification:
    """The verification of one handshake, and how it went.

    Attributes:
        trust: What it depends on, above all who the peer must be.
        offered: The session that the peer may resume; None for none.
        passed: Whether the peer's own certificate was accepted.
        failure: Why not, in words.
        valid_until: When that certificate expires, seconds since the epoch.
    """

    __slots__ = ("failure", "offered", "passed", "trust", "valid_until")

    def __init__(self, trust: Trust, offered: StoredSession | None) -> None:
        self.trust = trust
        self.offered = offered
        self.passed = False
        self.failure = ""
        self.valid_until = math.inf


class TlsConnector:
    """Does TLS handshakes as a client. Making one reads the files that the options name.

    Args:
        options: Of the connector.

    Raises:
        Error: ``FILE_READ_ERROR`` or ``TLS_CONFIG_ERROR`` if a file cannot be used.
    """

    def __init__(self, options: ConnectorOptions) -> None:
        self._sessions = SessionCache(options.tls_session_cache_size, time.monotonic)
        self._contexts = ClientContexts(options, _verify, self._sessions.forget_context)

    def prepare(self, peer: Peer, *, alpn: AlpnOffer) -> SSL.Connection:
        """Get ready for a handshake, so that a mistake is found before anything is connected.

        Args:
            peer: The peer.
            alpn: The protocols to offer.

        Returns:
            What `handshake` needs.

        Raises:
            Error: ``TLS_CONFIG_ERROR`` if the peer's options cannot be used or leave nothing to
                verify it by.
        """
        try:
            sni = _server_name(peer)
            identity = _identity(peer, sni)
        except ValueError as error:
            raise Error(
                TLS_CONFIG_ERROR,
                f"{peer!r}: {error}",
                source=ErrorSource.INTERNAL,
                cause=error,
            ) from error
        context = self._contexts.get(peer, alpn)
        connection = SSL.Connection(context, None)
        connection.set_connect_state()
        if sni:
            connection.set_tlsext_host_name(sni.encode("ascii"))
        trust = Trust(context, peer.reuse_key(), sni, identity)
        offered = self._sessions.take(trust)
        if offered is not None:
            connection.set_session(offered.session)
        connection.set_app_data(_Verification(trust, offered))
        return connection

    async def handshake(self, stream: Stream, peer: Peer, connection: SSL.Connection) -> TlsStream:
        """Do the handshake with a peer within its ``connection_timeout``.

        Args:
            stream: Connected to the peer; left to the caller to close if this fails.
            peer: The peer.
            connection: What `prepare` made for it.

        Returns:
            The encrypted stream, which owns the other one.

        Raises:
            Error: From upstream: ``CONNECT_TIMEDOUT``, ``INVALID_CERT`` or
                ``TLS_HANDSHAKE_FAILURE``; or what the user's hook raises.
        """
        options = peer.options
        verification = connection.get_app_data()
        assert isinstance(verification, _Verification)
        tls = TlsStream(stream, connection)
        try:
            await tls.handshake(options.connection_timeout)
            keeper = self._accept(connection, verification, verify=options.verify_cert)
        except Error as error:
            # If it was the session's fault, the next try does without.
            self._sessions.discard(verification.trust)
            described = _describe(error, peer, verification)
            raise described from error
        if keeper.uses_tickets:
            tls.on_session = keeper.store
        else:
            keeper.store()
        hook = options.upstream_tls_handshake_complete_hook
        if hook is not None:
            _run_hook(hook, tls)
        return tls

    def _accept(
        self, connection: SSL.Connection, verification: _Verification, *, verify: bool
    ) -> SessionKeeper:
        """Make sure that a peer was verified, now or when the session began that it has resumed.

        Args:
            connection: After its handshake.
            verification: How that went.
            verify: Whether the peer must have been verified.

        Returns:
            What keeps the sessions of the connection.

        Raises:
            Error: ``INVALID_CERT`` if it was not.
        """
        offered = verification.offered
        if offered is not None and is_resumed(connection):
            # Only what has passed is kept; OpenSSL remembers the same, so ask it as well.
            verified = is_peer_verified(connection)
            expiry = offered.expiry
        else:
            offered = None
            verified = verification.passed
            expiry = self._sessions.expiry_of(verification.valid_until - time.time())
        if verify and not verified:
            msg = "the handshake ended without verification"
            raise Error(ErrorType.INVALID_CERT, msg)
        return SessionKeeper(
            self._sessions,
            verification.trust,
            connection,
            expiry,
            resumed=None if offered is None else offered.session,
        )

    def close(self) -> None:
        """Forget the sessions, and close the key log if there is one."""
        self._sessions.clear()
        self._contexts.close()


def _server_name(peer: Peer) -> str:
    """Find the name to ask for.

    Args:
        peer: The peer.

    Returns:
        The name in ASCII; empty for none, which is also so for an IP address (RFC 6066).

    Raises:
        ValueError: If it is no host name.
    """
    if not peer.sni:
        return peer.address.host if isinstance(peer.address, HostAddress) else ""
    return "" if as_ip_address(peer.sni) is not None else normalize_host_name(peer.sni)


def _run_hook(hook: TlsHandshakeHook, tls: TlsStream) -> None:
    digest = tls.digest.ssl_digest
    assert digest is not None
    try:
        digest.extension = hook(tls)
    except Error:
        raise
    except Exception as error:
        raise Error(
            ErrorType.HANDSHAKE_ERROR,
            "the user's handshake hook failed",
            source=ErrorSource.INTERNAL,
            cause=error,
        ) from error


def _identity(peer: Peer, sni: str) -> ReferenceIdentity | None:
    """Decide who a peer must prove to be.

    Args:
        peer: The peer.
        sni: The name that is asked for; empty for none.

    Returns:
        The identity; None if its name need not be verified.

    Raises:
        ValueError: If there is nothing to verify it by.
    """
    options = peer.options
    if not (options.verify_cert and options.verify_hostname):
        return None
    address = peer.address
    name = sni or peer.sni or (address.host if isinstance(address, InetAddress) else "")
    identity = ReferenceIdentity.of(name, options.alternative_cn or "")
    if identity.is_empty:
        msg = "there is neither a name nor an IP address to verify; give it an SNI"
        raise ValueError(msg)
    return identity


def _verify(  # noqa: PLR0917 - OpenSSL's signature
    connection: SSL.Connection, certificate: crypto.X509, code: int, depth: int, ok: int
) -> bool:
    """Judge one certificate of the chain; OpenSSL calls this from the root down to the peer's own.

    Args:
        connection: Whose chain it is.
        certificate: The certificate.
        code: What OpenSSL has against it.
        depth: 0 for the peer's own.
        ok: Whether OpenSSL accepts it.

    Returns:
        Whether to go on.
    """
    verification = connection.get_app_data()
    assert isinstance(verification, _Verification)
    if not ok:
        reason = _CODE_NAMES.get(code, f"error {code}")
        verification.failure = f"{reason} (certificate {depth} of the chain)"
        return False
    if depth == 0:
        identity = verification.trust.identity
        own = certificate.to_cryptography()
        if identity is not None and not identity.matches(own):
            verification.failure = _mismatch(identity, own)
            return False
        verification.valid_until = own.not_valid_after_utc.timestamp()
        verification.passed = True
    return True


def _mismatch(identity: ReferenceIdentity, certificate: x509.Certificate) -> str:
    names = ", ".join(read_certificate(certificate).subject_alt_names)
    shown = f"{names[:_MAX_NAMES]}..." if len(names) > _MAX_NAMES else names
    return f"the certificate is not for {identity} but for {ascii(shown) if names else 'no name at all'}"


def _describe(error: Error, peer: Peer, verification: _Verification) -> Error:
    etype = error.etype
    if etype is ErrorType.TLS_HANDSHAKE_TIMEDOUT:
        etype = ErrorType.CONNECT_TIMEDOUT
    detail = f": {verification.failure}" if verification.failure else ""
    return Error.up(etype, f"TLS handshake with {peer!r}{detail}", cause=error)
