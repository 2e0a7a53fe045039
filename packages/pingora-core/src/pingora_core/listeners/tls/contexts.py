"""OpenSSL's contexts behind a listener, made when they are needed and kept within a bound.

Theory of operation. A connection begins with a base context, which holds what must outlive a
certificate: the keys of session tickets and the session cache. Then the context of the certificate
takes its place (``SSL_set_SSL_CTX``), with chain and key, ALPN, and the trusted authorities. So a
renewed certificate, or one chosen by a callback, costs no client its session. Sessions do not cross
over: each set of client authorities has a base of its own, and each set of names a session id
context of its own. The base is replaced from time to time, which draws new ticket keys: who steals
one cannot read the traffic of more than that time.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

from OpenSSL import SSL

from pingora_core.listeners.tls._openssl import PARTIAL_WRITE, PRIORITIZE_CHACHA
from pingora_core.listeners.tls.certificates import ServerCertificate
from pingora_core.listeners.tls.checks import names_of, use_certificate
from pingora_core.protocols.tls.certificate import CertKey
from pingora_core.protocols.tls.errors import reason_of
from pingora_core.protocols.tls.openssl import set_groups
from pingora_error import TLS_CONFIG_ERROR, Error, ErrorSource

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_core.listeners.tls.client_auth import ClientAuth, ClientAuthMode
    from pingora_core.listeners.tls.settings import TlsSettings
    from pingora_core.protocols.tls.alpn import AlpnOffer

__all__ = ["ContextFactory"]

# Different sets of client authorities in use at once.
_MAX_BASES: Final = 64

_AuthKey = tuple[bytes, "ClientAuthMode", int]
_LeafKey = tuple[CertKey, tuple[bytes, ...], "_AuthKey | None"]


class _Base(NamedTuple):
    context: SSL.Context
    expiry: float


class ContextFactory:
    """Makes the OpenSSL side of connections.

    Args:
        settings: Of the listener; read when a context is made.
        clock: Monotonic time, seconds.

    Raises:
        Error: ``TLS_CONFIG_ERROR`` if OpenSSL refuses something of the settings.
    """

    __slots__ = ("_bases", "_clock", "_leaves", "_settings")

    def __init__(self, settings: TlsSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._bases: OrderedDict[_AuthKey | None, _Base] = OrderedDict()
        self._leaves: OrderedDict[_LeafKey, SSL.Context] = OrderedDict()
        # Now: what is wrong is told at once, and processes forked later share the ticket keys.
        self._base(settings.client_auth)

    def __len__(self) -> int:
        return len(self._leaves)

    def connection(
        self,
        certificate: ServerCertificate | CertKey,
        alpn: AlpnOffer,
        client_auth: ClientAuth | None,
    ) -> SSL.Connection:
        """Make the server side of a connection. HOT.

        Args:
            certificate: What to present.
            alpn: Protocols to choose from.
            client_auth: Whether and how the client identifies itself.

        Returns:
            The connection, ready for its handshake.

        Raises:
            Error: ``TLS_CONFIG_ERROR`` if OpenSSL refuses the certificate.
        """
        leaf = self.leaf(certificate, alpn, client_auth)
        connection = SSL.Connection(self._base(client_auth), None)
        connection.set_context(leaf)
        connection.set_accept_state()
        connection.set_app_data(certificate)
        return connection

    def leaf(
        self,
        certificate: ServerCertificate | CertKey,
        alpn: AlpnOffer,
        client_auth: ClientAuth | None,
    ) -> SSL.Context:
        """Find or make the context of a certificate.

        Args:
            certificate: What to present.
            alpn: Protocols to choose from.
            client_auth: Whether and how the client identifies itself.

        Returns:
            The context; not to be changed.

        Raises:
            Error: ``TLS_CONFIG_ERROR`` if OpenSSL refuses the certificate.
        """
        cert_key = certificate if isinstance(certificate, CertKey) else certificate.cert_key
        key: _LeafKey = (cert_key, alpn.protocols, None if client_auth is None else client_auth.key)
        context = self._leaves.get(key)
        if context is not None:
            self._leaves.move_to_end(key)
            return context
        context = self._make(client_auth, hashlib.sha256(repr(names_of(cert_key)).encode()))
        use_certificate(context, cert_key)
        _choose_protocol(context, alpn.protocols)
        context.set_ocsp_server_callback(_staple)
        self._leaves[key] = context
        if len(self._leaves) > self._settings.max_contexts:
            self._leaves.popitem(last=False)
        return context

    def _base(self, client_auth: ClientAuth | None) -> SSL.Context:
        key = None if client_auth is None else client_auth.key
        base = self._bases.get(key)
        now = self._clock()
        if base is None or base.expiry <= now:
            context = self._make(client_auth, hashlib.sha256())
            base = self._bases[key] = _Base(context, now + self._settings.ticket_key_lifetime)
            if len(self._bases) > _MAX_BASES:
                self._bases.popitem(last=False)
        self._bases.move_to_end(key)
        return base.context

    def _make(self, client_auth: ClientAuth | None, session_id: hashlib._Hash) -> SSL.Context:
        settings = self._settings
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_min_proto_version(settings.min_version.number)
        context.set_max_proto_version(settings.max_version.number)
        context.set_options(_options(settings))
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        context.clear_mode(PARTIAL_WRITE)
        _set_algorithms(context, settings)
        cached = settings.session_cache
        context.set_session_cache_mode(SSL.SESS_CACHE_SERVER if cached else SSL.SESS_CACHE_OFF)
        context.set_timeout(max(1, int(settings.session_timeout)))
        context.set_session_id(session_id.digest())
        if client_auth is not None:
            client_auth.configure(context)
        path = settings.keylog_path
        if path is not None:
            context.set_keylog_callback(_KeyLog(path))
        return context


class _KeyLog:
    """Appends to the file that Wireshark reads; opened for each line, for it is a debugging aid."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __call__(self, connection: SSL.Connection, line: bytes) -> None:
        del connection
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        try:
            os.write(descriptor, line + b"\n")
        finally:
            os.close(descriptor)


def _options(settings: TlsSettings) -> int:
    options = SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION
    if settings.prefer_server_ciphers:
        options |= SSL.OP_CIPHER_SERVER_PREFERENCE | PRIORITIZE_CHACHA
    if not settings.session_tickets:
        options |= SSL.OP_NO_TICKET
    return options


def _set_algorithms(context: SSL.Context, settings: TlsSettings) -> None:
    try:
        if settings.ciphers:
            context.set_cipher_list(":".join(settings.ciphers).encode())
        if settings.ciphersuites:
            context.set_tls13_ciphersuites(":".join(settings.ciphersuites).encode())
    except SSL.Error as error:
        msg = f"OpenSSL refuses the ciphers: {reason_of(error)}"
        raise Error(TLS_CONFIG_ERROR, msg, source=ErrorSource.INTERNAL, cause=error) from error
    if not set_groups(context, ":".join(settings.groups)):
        msg = f"OpenSSL does not accept the groups {settings.groups}"
        raise Error(TLS_CONFIG_ERROR, msg, source=ErrorSource.INTERNAL)


def _choose_protocol(context: SSL.Context, protocols: tuple[bytes, ...]) -> None:
    # Unknown protocols are ignored: most clients fall back to HTTP/1.
    nothing = SSL.NO_OVERLAPPING_PROTOCOLS
    context.set_alpn_select_callback(
        lambda _, offered: next((name for name in protocols if name in offered), nothing)
    )


def _staple(connection: SSL.Connection, data: object) -> bytes:
    del data
    certificate = connection.get_app_data()
    response = certificate.ocsp_response if isinstance(certificate, ServerCertificate) else None
    return b"" if response is None else response.current(time.time())
