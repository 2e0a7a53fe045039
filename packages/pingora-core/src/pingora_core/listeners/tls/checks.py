"""What a certificate must be before a listener uses it, and the names that it is for."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from cryptography import x509
from OpenSSL import SSL

from pingora_core.protocols.tls.certificate import get_common_name
from pingora_core.protocols.tls.errors import reason_of
from pingora_core.protocols.tls.verify import normalize_host_name
from pingora_error import TLS_CONFIG_ERROR, Error, ErrorSource

if TYPE_CHECKING:
    from pingora_core.protocols.tls.certificate import CertKey

__all__ = ["check_certificate", "names_of", "normalize_pattern", "use_certificate"]


def names_of(cert_key: CertKey) -> tuple[str, ...]:
    """Read the names that a certificate is for.

    Args:
        cert_key: The certificate.

    Returns:
        Its DNS names, wildcards included; the common name if it has no alternative names at all.
    """
    leaf = cert_key.leaf
    try:
        extension = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        found: list[str] = extension.value.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        common_name = get_common_name(leaf)
        found = [] if common_name is None else [common_name]
    names: list[str] = []
    for name in found:
        try:
            names.append(normalize_pattern(name))
        except ValueError:
            # No client can ask for it.
            continue
    return tuple(dict.fromkeys(names))


def normalize_pattern(name: str) -> str:
    """Bring a name or wildcard into the form in which it is looked up.

    Args:
        name: A host name, or ``*.`` and a host name.

    Returns:
        Lower case, ASCII, without a dot at its end.

    Raises:
        ValueError: If it is neither.
    """
    if name.startswith("*."):
        return "*." + normalize_host_name(name[2:])
    return normalize_host_name(name)


def check_certificate(cert_key: CertKey) -> None:
    """Refuse a certificate that no client would accept today, or OpenSSL would not use.

    Args:
        cert_key: The certificate; the validity of those above it is not looked at, since clients
            may know another way to a root.

    Raises:
        Error: ``TLS_CONFIG_ERROR`` if it has expired, is not valid yet or is too weak.
    """
    use_certificate(SSL.Context(SSL.TLS_SERVER_METHOD), cert_key)
    leaf = cert_key.leaf
    now = dt.datetime.now(dt.UTC)
    problem = ""
    if leaf.not_valid_after_utc < now:
        problem = f"expired on {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    elif leaf.not_valid_before_utc > now:
        problem = f"not valid before {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
    if problem:
        msg = f"{cert_key!r}: {problem}"
        raise Error(TLS_CONFIG_ERROR, msg, source=ErrorSource.INTERNAL)


def use_certificate(context: SSL.Context, cert_key: CertKey) -> None:
    """Have a context present a certificate.

    Args:
        context: Not used by a connection yet.
        cert_key: The certificate with its chain and key.

    Raises:
        Error: ``TLS_CONFIG_ERROR`` if OpenSSL refuses it, because its key is too short for
            instance.
    """
    try:
        context.use_certificate(cert_key.leaf)
        for certificate in cert_key.intermediates:
            context.add_extra_chain_cert(certificate)
        context.use_privatekey(cert_key.key)
    except SSL.Error as error:
        msg = f"OpenSSL refuses {cert_key!r}: {reason_of(error)}"
        raise Error(TLS_CONFIG_ERROR, msg, source=ErrorSource.INTERNAL, cause=error) from error
