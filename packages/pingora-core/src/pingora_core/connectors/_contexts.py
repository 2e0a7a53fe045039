"""OpenSSL's contexts behind a connector, made when they are needed and kept within a bound.

Theory of operation. What connections have in common (authorities, client certificate, protocols,
groups) is an ``SSL.Context``; making one reads the trust store and takes milliseconds, so they are
kept.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from functools import cache
from typing import TYPE_CHECKING, Final, TypeAlias

from OpenSSL import SSL, crypto

from pingora_core.protocols.tls.certificate import CaBundle, CertKey
from pingora_core.protocols.tls.errors import reason_of
from pingora_core.protocols.tls.openssl import set_groups
from pingora_error import TLS_CONFIG_ERROR, Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO

    from pingora_core.connectors.options import ConnectorOptions
    from pingora_core.protocols.tls.alpn import AlpnOffer
    from pingora_core.upstreams.peer import Peer

__all__ = ["ClientContexts", "VerifyCallback"]

# Each distinct combination of authorities, certificate, protocols and groups needs one, at a few
# hundred KiB with the system's authorities in it.
_MAX_CONTEXTS: Final = 64
# SSL_MODE_ENABLE_PARTIAL_WRITE, which pyOpenSSL sets and does not name.
_PARTIAL_WRITE: Final = 1
# OpenSSL's default preference, which with it means one key share instead of two.
_GROUPS: Final = ("X25519MLKEM768", "X25519", "P-256", "X448", "P-384", "P-521")

_ContextKey: TypeAlias = tuple[
    CaBundle | None, CertKey | None, tuple[bytes, ...], str | None, bool, bool
]
VerifyCallback: TypeAlias = "Callable[[SSL.Connection, crypto.X509, int, int, int], bool]"


class ClientContexts:
    """The contexts of one connector.

    Args:
        options: Of the connector.
        verify: Judges each certificate of a peer's chain.
        on_evicted: Called with a context that is not used for new connections any more.

    Raises:
        Error: ``FILE_READ_ERROR`` or ``TLS_CONFIG_ERROR`` if a file cannot be used.
    """

    __slots__ = ("_ca", "_cert_key", "_contexts", "_keylog", "_on_evicted", "_verify")

    def __init__(
        self,
        options: ConnectorOptions,
        verify: VerifyCallback,
        on_evicted: Callable[[SSL.Context], None],
    ) -> None:
        self._verify = verify
        self._on_evicted = on_evicted
        self._ca = None if options.ca_file is None else CaBundle.from_file(options.ca_file)
        pair = options.cert_key_file
        self._cert_key = None if pair is None else CertKey.from_files(*pair)
        self._keylog: IO[bytes] | None = _open_keylog() if options.debug_ssl_keylog else None
        self._contexts: OrderedDict[_ContextKey, SSL.Context] = OrderedDict()

    def __len__(self) -> int:
        return len(self._contexts)

    def get(self, peer: Peer, alpn: AlpnOffer) -> SSL.Context:
        """Find or make the context for a peer.

        Args:
            peer: The peer.
            alpn: The protocols to offer.

        Returns:
            The context; not to be changed.

        Raises:
            Error: ``TLS_CONFIG_ERROR`` if OpenSSL refuses something of the options.
        """
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
            context = self._contexts[key] = self._make(key)
            if len(self._contexts) > _MAX_CONTEXTS:
                _, evicted = self._contexts.popitem(last=False)
                self._on_evicted(evicted)
        else:
            self._contexts.move_to_end(key)
        return context

    def close(self) -> None:
        """Close the key log, if there is one."""
        if self._keylog is not None:
            self._keylog.close()
            self._keylog = None

    def _make(self, key: _ContextKey) -> SSL.Context:
        ca, cert_key, protocols, curves, second_keyshare, verify = key
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_options(SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION)
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        context.clear_mode(_PARTIAL_WRITE)
        # Sessions are kept here, where it is known what they were verified by.
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_alpn_protos(list(protocols))
        groups = curves or (None if second_keyshare else _one_keyshare())
        if groups is not None and not set_groups(context, groups):
            raise Error(
                TLS_CONFIG_ERROR,
                f"OpenSSL does not know all of the groups {groups!r}",
                source=ErrorSource.INTERNAL,
            )
        if verify:
            context.set_verify(SSL.VERIFY_PEER, self._verify)
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


@cache
def _one_keyshare() -> str:
    # Older libraries and FIPS providers do not know all of them.
    scratch = SSL.Context(SSL.TLS_CLIENT_METHOD)
    return ":".join(group for group in _GROUPS if set_groups(scratch, group))


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
