"""The client side of TLS: whom to trust, what to offer, and the handshake.

Theory of operation. What connections have in common (authorities, client certificate, protocols,
groups) is an ``SSL.Context``; making one reads the trust store and takes milliseconds, so they are
kept. Who a peer must prove to be belongs to one connection and is checked in OpenSSL's verify
callback, which means: before a client certificate is sent, and with an alert to the peer.

Verification has two switches. Without ``verify_cert`` nothing is checked. Without ``verify_hostname``
anybody with a trusted certificate is accepted. Otherwise the certificate must be for the SNI; a
peer without one must be the host that was looked up or the IP address that was connected to.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from OpenSSL import SSL, crypto

from pingora_core.connectors._openssl import set_groups
from pingora_core.protocols.address import HostAddress, InetAddress
from pingora_core.protocols.tls.certificate import CaBundle, CertKey
from pingora_core.protocols.tls.errors import reason_of
from pingora_core.protocols.tls.stream import TlsStream
from pingora_core.protocols.tls.verify import (
    ReferenceIdentity,
    as_ip_address,
    normalize_host_name,
)
from pingora_error import TLS_CONFIG_ERROR, Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    from typing import IO

    from pingora_core.connectors.options import ConnectorOptions
    from pingora_core.protocols.interfaces import Stream
    from pingora_core.protocols.tls.alpn import AlpnOffer
    from pingora_core.upstreams.hooks import TlsHandshakeHook
    from pingora_core.upstreams.peer import Peer

__all__ = ["TlsConnector"]

# Each distinct combination of authorities, certificate, protocols and groups needs one, at a few
# hundred KiB with the system's authorities in it.
_MAX_CONTEXTS: Final = 64
# SSL_MODE_ENABLE_PARTIAL_WRITE, which pyOpenSSL sets and does not name.
_PARTIAL_WRITE: Final = 1
# OpenSSL's default preference with one key share instead of two.
_ONE_KEYSHARE: Final = "X25519MLKEM768:X25519:P-256:X448:P-384:P-521"
_CODE_NAMES: Final = {
    code: name.removeprefix("ERR_").replace("_", " ").lower()
    for name, code in vars(SSL.X509VerificationCodes).items()
    if name.startswith("ERR_")
}

_ContextKey = tuple[CaBundle | None, CertKey | None, tuple[bytes, ...], str | None, bool, bool]


class _Verification:
    """The verification of one handshake, and how it went.

    Attributes:
        identity: Who the peer must be; None for anybody trusted.
        passed: Whether the peer's own certificate was accepted.
        failure: Why not, in words.
    """

    __slots__ = ("failure", "identity", "passed")

    def __init__(self, identity: ReferenceIdentity | None) -> None:
        self.identity = identity
        self.passed = False
        self.failure = ""


class TlsConnector:
    """Does TLS handshakes as a client. Making one reads the files that the options name.

    Args:
        options: Of the connector.

    Raises:
        Error: ``FILE_READ_ERROR`` or ``TLS_CONFIG_ERROR`` if a file cannot be used.
    """

    def __init__(self, options: ConnectorOptions) -> None:
        self._ca = None if options.ca_file is None else CaBundle.from_file(options.ca_file)
        pair = options.cert_key_file
        self._cert_key = None if pair is None else CertKey.from_files(*pair)
        self._keylog: IO[bytes] | None = _open_keylog() if options.debug_ssl_keylog else None
        self._contexts: OrderedDict[_ContextKey, SSL.Context] = OrderedDict()

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
        connection = SSL.Connection(self._context(peer, alpn), None)
        connection.set_connect_state()
        connection.set_app_data(_Verification(identity))
        if sni:
            connection.set_tlsext_host_name(sni.encode("ascii"))
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
            if options.verify_cert and not verification.passed:
                msg = "the handshake ended without verification"
                raise Error(ErrorType.INVALID_CERT, msg)
        except Error as error:
            described = _describe(error, peer, verification)
            raise described from error
        hook = options.upstream_tls_handshake_complete_hook
        if hook is not None:
            _run_hook(hook, tls)
        return tls

    def close(self) -> None:
        """Close the key log, if there is one."""
        if self._keylog is not None:
            self._keylog.close()
            self._keylog = None

    def _context(self, peer: Peer, alpn: AlpnOffer) -> SSL.Context:
        options = peer.options
        key: _ContextKey = (
            options.ca or self._ca,
            peer.client_cert_key or self._cert_key,
            alpn.protocols,
            options.curves,
            options.second_keyshare,
            options.verify_cert,
        )
        context = self._contexts.get(key)
        if context is None:
            context = self._contexts[key] = self._make_context(key)
            if len(self._contexts) > _MAX_CONTEXTS:
                self._contexts.popitem(last=False)
        else:
            self._contexts.move_to_end(key)
        return context

    def _make_context(self, key: _ContextKey) -> SSL.Context:
        ca, cert_key, protocols, curves, second_keyshare, verify = key
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_options(SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION)
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        context.clear_mode(_PARTIAL_WRITE)
        # A resumed session would skip the verification that this peer may ask for.
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_alpn_protos(list(protocols))
        groups = curves or (None if second_keyshare else _ONE_KEYSHARE)
        if groups is not None and not set_groups(context, groups):
            raise Error(
                TLS_CONFIG_ERROR,
                f"OpenSSL does not know all of the groups {groups!r}",
                source=ErrorSource.INTERNAL,
            )
        if verify:
            context.set_verify(SSL.VERIFY_PEER, _verify)
            _trust(context, ca)
        else:
            context.set_verify(SSL.VERIFY_NONE)
        if cert_key is not None:
            _use_certificate(context, cert_key)
        if self._keylog is not None:
            context.set_keylog_callback(self._log_key)
        return context

    def _log_key(self, connection: SSL.Connection, line: bytes) -> None:
        del connection
        # A connection may outlive the connector.
        if self._keylog is not None:
            self._keylog.write(line + b"\n")
            self._keylog.flush()


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
        identity = verification.identity
        if identity is not None and not identity.matches(certificate.to_cryptography()):
            verification.failure = f"the certificate is not for {identity}"
            return False
        verification.passed = True
    return True


def _describe(error: Error, peer: Peer, verification: _Verification) -> Error:
    etype = error.etype
    if etype is ErrorType.TLS_HANDSHAKE_TIMEDOUT:
        etype = ErrorType.CONNECT_TIMEDOUT
    detail = f": {verification.failure}" if verification.failure else ""
    return Error.up(etype, f"TLS handshake with {peer!r}{detail}", cause=error)


def _trust(context: SSL.Context, ca: CaBundle | None) -> None:
    if ca is None:
        context.set_default_verify_paths()
        return
    store = context.get_cert_store()
    assert store is not None
    for certificate in ca.certificates:
        store.add_cert(crypto.X509.from_cryptography(certificate))
    # What the user lists is trusted, whether it is a root or not.
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)


def _use_certificate(context: SSL.Context, cert_key: CertKey) -> None:
    try:
        context.use_certificate(cert_key.leaf)
        for certificate in cert_key.intermediates:
            context.add_extra_chain_cert(certificate)
        context.use_privatekey(cert_key.key)
    except SSL.Error as error:
        raise Error(
            TLS_CONFIG_ERROR,
            f"OpenSSL refuses {cert_key!r}: {reason_of(error)}",
            source=ErrorSource.INTERNAL,
            cause=error,
        ) from error


def _open_keylog() -> IO[bytes] | None:
    path = os.environ.get("SSLKEYLOGFILE")
    if not path:
        return None
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Error(
            ErrorType.FILE_OPEN_ERROR, f"key log {path}", source=ErrorSource.INTERNAL, cause=error
        ) from error
    return os.fdopen(descriptor, "ab")
