"""Tells the origin which certificate a client has identified itself with (mutual TLS).

``Client-Cert`` (RFC 9440) carries the certificate itself; ``X-Forwarded-Client-Cert``, which Envoy
has made common, its digest and the certificate. Whatever a client sends in these fields is removed,
with or without a certificate of its own: an origin believes them because only the proxy can set
them. The fields are set on the request head of the client's side once, so a retry, which copies
that head again, does not add them twice.
"""

from __future__ import annotations

import base64
import textwrap
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from pingora_core.modules.module import HttpModule, HttpModuleBuilder

if TYPE_CHECKING:
    from pingora_core.modules.module import Downstream
    from pingora_core.protocols.digest import SslDigest
    from pingora_http import RequestHeader

__all__ = ["ClientCert", "ClientCertBuilder", "forward_client_certificate"]

_CLAIMS: Final = frozenset({b"client-cert", b"client-cert-chain", b"x-forwarded-client-cert"})


def forward_client_certificate(
    request: RequestHeader,
    tls: SslDigest | None,
    *,
    client_cert: bool = True,
    x_forwarded_client_cert: bool = False,
) -> None:
    """Set the fields, after removing what the client has sent under their names.

    Args:
        request: The head that goes to the origin; changed in place.
        tls: What the client's connection has agreed on, ``session.digest.ssl_digest``; without
            it, or without a verified certificate in it, fields are only removed.
        client_cert: Whether to send ``Client-Cert``.
        x_forwarded_client_cert: Whether to send ``X-Forwarded-Client-Cert``.
    """
    claims = [name for name in request.keys_lower() if name.replace(b"_", b"-") in _CLAIMS]
    if claims:
        request.remove_headers(claims)
    if tls is None or not tls.verified:
        return
    facts = tls.certificate
    if facts is None:
        return
    encoded = base64.b64encode(facts.der).decode()
    if client_cert:
        # A byte sequence (RFC 8941 section 3.3.5).
        request.insert_header("Client-Cert", f":{encoded}:")
    if x_forwarded_client_cert:
        body = "\n".join(textwrap.wrap(encoded, 64))
        pem = f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"
        value = f'Hash={facts.cert_digest.hex()};Cert="{quote(pem, safe="")}"'
        request.insert_header("X-Forwarded-Client-Cert", value)


class ClientCert(HttpModule):
    """Sets the fields on each request before the application sees it.

    Args:
        tls: What the client's connection has agreed on; None without TLS.
        client_cert: Whether to send ``Client-Cert``.
        x_forwarded_client_cert: Whether to send ``X-Forwarded-Client-Cert``.
    """

    __slots__ = ("_client_cert", "_tls", "_x_forwarded_client_cert")

    def __init__(
        self, tls: SslDigest | None, *, client_cert: bool, x_forwarded_client_cert: bool
    ) -> None:
        self._tls = tls
        self._client_cert = client_cert
        self._x_forwarded_client_cert = x_forwarded_client_cert

    async def request_header_filter(self, request: RequestHeader) -> None:
        """Set the fields; see ``HttpModule``."""
        forward_client_certificate(
            request,
            self._tls,
            client_cert=self._client_cert,
            x_forwarded_client_cert=self._x_forwarded_client_cert,
        )


class ClientCertBuilder(HttpModuleBuilder):
    """Passes the certificates of clients on to the origins of a service.

    Args:
        client_cert: Whether to send ``Client-Cert``.
        x_forwarded_client_cert: Whether to send ``X-Forwarded-Client-Cert``.
        order: When the module runs; higher is earlier.
    """

    module_type = ClientCert

    def __init__(
        self,
        *,
        client_cert: bool = True,
        x_forwarded_client_cert: bool = False,
        order: int = 0,
    ) -> None:
        self._client_cert = client_cert
        self._x_forwarded_client_cert = x_forwarded_client_cert
        self.order = order

    def init(self) -> ClientCert:
        """Make a module that knows no client; see ``HttpModuleBuilder``.

        Returns:
            The module.
        """
        return self._make(None)

    def init_for(self, downstream: Downstream) -> ClientCert:
        """Make the module of one request; see ``HttpModuleBuilder``.

        Args:
            downstream: The client's side.

        Returns:
            The module.
        """
        return self._make(downstream.digest.ssl_digest)

    def _make(self, tls: SslDigest | None) -> ClientCert:
        return ClientCert(
            tls,
            client_cert=self._client_cert,
            x_forwarded_client_cert=self._x_forwarded_client_cert,
        )
