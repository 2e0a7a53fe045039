"""The one thing that pyOpenSSL does not offer and its binding does: choosing key exchange groups.

All access to the private parts of pyOpenSSL and cryptography is in this file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.bindings.openssl.binding import Binding

if TYPE_CHECKING:
    from OpenSSL import SSL

__all__ = ["set_groups"]


def set_groups(context: SSL.Context, groups: str) -> bool:
    """Choose the key exchange groups to offer.

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
