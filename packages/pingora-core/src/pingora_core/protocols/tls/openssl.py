"""What pyOpenSSL does not offer and its binding does.

All access to the private parts of pyOpenSSL and cryptography by streams and connectors is here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.bindings._rust import openssl as rust_openssl  # noqa: PLC2701
from cryptography.hazmat.bindings.openssl.binding import Binding

if TYPE_CHECKING:
    from OpenSSL import SSL

__all__ = [
    "is_fips_active",
    "is_peer_verified",
    "is_resumed",
    "is_same_session",
    "set_groups",
]


def set_groups(context: SSL.Context, groups: str) -> bool:
    """Choose the key exchange groups to offer or to accept.

    Args:
        context: Not used by a connection yet.
        groups: In OpenSSL's notation, such as ``X25519:P-256``.

    Returns:
        False if OpenSSL does not know them all.
    """
    lib = Binding.lib
    accepted: int = lib.SSL_CTX_set1_curves_list(context._context, groups.encode())  # noqa: SLF001
    if accepted != 1:
        # What stays in the queue would be taken for the reason of somebody else's failure.
        lib.ERR_clear_error()
    return accepted == 1


def is_resumed(connection: SSL.Connection) -> bool:
    """Tell whether a handshake has resumed an earlier session.

    Args:
        connection: After its handshake.

    Returns:
        True if it has.
    """
    return bool(Binding.lib.SSL_session_reused(connection._ssl))  # noqa: SLF001


def is_peer_verified(connection: SSL.Connection) -> bool:
    """Tell whether the peer's certificates were asked to be verified, and were.

    Args:
        connection: After its handshake.

    Returns:
        True if they were; True also if there was no certificate and none was required.
    """
    lib = Binding.lib
    ssl = connection._ssl  # noqa: SLF001
    if not lib.SSL_get_verify_mode(ssl) & lib.SSL_VERIFY_PEER:
        return False
    return bool(lib.SSL_get_verify_result(ssl) == lib.X509_V_OK)


def is_same_session(one: SSL.Session, other: SSL.Session) -> bool:
    """Tell whether two sessions are one: two questions give two objects.

    Args:
        one: A session.
        other: Perhaps the same.

    Returns:
        True if they are.
    """
    return bool(one._session == other._session)  # noqa: SLF001


def is_fips_active() -> bool:
    """Tell whether OpenSSL uses only what its FIPS provider has.

    Returns:
        True if ``fips=yes`` is among the default properties of this process's OpenSSL.
    """
    return rust_openssl.is_fips_enabled()
