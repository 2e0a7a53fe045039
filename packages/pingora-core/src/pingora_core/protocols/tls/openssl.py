"""What pyOpenSSL does not offer and its binding does.

All access to the private parts of pyOpenSSL and cryptography by streams and connectors is here.
"""

from __future__ import annotations

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.bindings._rust import openssl as rust_openssl  # noqa: PLC2701
from cryptography.hazmat.bindings.openssl.binding import Binding
from cryptography.hazmat.primitives import hashes
from OpenSSL import SSL

__all__ = [
    "find_fips_problem",
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


def find_fips_problem() -> str | None:
    """Find out why what OpenSSL does is not FIPS-validated cryptography, if it is not.

    Returns:
        The reason; None if OpenSSL takes algorithms from its FIPS provider only.
    """
    version = SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode("ascii", "replace")
    if not rust_openssl.is_fips_enabled():
        return f"fips=yes is not among the default properties of {version}"
    try:
        hashes.Hash(hashes.SHA256()).finalize()
    except (InternalError, UnsupportedAlgorithm):
        return f"{version} has not loaded its FIPS provider"
    return None
