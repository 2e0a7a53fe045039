"""What pyOpenSSL does not offer and its binding does, for the server side.

All access of the listeners to the private parts of pyOpenSSL and cryptography is in this file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cryptography.hazmat.bindings.openssl.binding import Binding

if TYPE_CHECKING:
    from OpenSSL import SSL

__all__ = ["PARTIAL_WRITE", "PRIORITIZE_CHACHA", "verify_failure"]

PARTIAL_WRITE: Final = 1
"""SSL_MODE_ENABLE_PARTIAL_WRITE, which pyOpenSSL sets and does not name."""

PRIORITIZE_CHACHA: Final = 1 << 21
"""SSL_OP_PRIORITIZE_CHACHA: a client that lists ChaCha20 first gets it, whatever we prefer."""

_MAX_REASON: Final = 200


def verify_failure(connection: SSL.Connection) -> str:
    """Say what is wrong with the certificate that the peer has sent.

    Args:
        connection: After a handshake, whether it failed or not.

    Returns:
        The reason in OpenSSL's words; empty if nothing is wrong.
    """
    lib = Binding.lib
    code: int = lib.SSL_get_verify_result(connection._ssl)  # noqa: SLF001
    if code == lib.X509_V_OK:
        return ""
    text: bytes = Binding.ffi.string(lib.X509_verify_cert_error_string(code), _MAX_REASON)
    return text.decode("ascii", "replace")
