"""Clients that identify themselves by a certificate (mutual TLS)."""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL, crypto

from pingora_core.listeners.tls.reload import WatchedFiles
from pingora_core.protocols.tls.certificate import CaBundle, get_serial
from pingora_error import TLS_CONFIG_ERROR, Error, ErrorSource

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

__all__ = ["ClientAuth", "ClientAuthMode", "ClientTrust"]

_logger = logging.getLogger(__name__)

DEFAULT_DEPTH: Final = 4
"""Authorities between a client's certificate and the trusted one."""

_CRL_END: Final = b"-----END X509 CRL-----"


class ClientAuthMode(Enum):
    """What happens to clients without a certificate.

    Attributes:
        REQUIRE: They are turned away.
        REQUEST: They are served; the digest tells that they have shown none.
    """

    REQUIRE = "require"
    REQUEST = "request"


class ClientTrust:
    """Whom to trust; immutable, and compared by content.

    Args:
        authorities: Who may have issued certificates.
        revocations: Lists of revoked ones; with any, each authority of a chain must have one.

    Attributes:
        authorities: As given.
        revocations: As given.
        fingerprint: Differs between any two sets that differ.
    """

    __slots__ = ("authorities", "fingerprint", "revocations")

    def __init__(
        self,
        authorities: CaBundle,
        revocations: tuple[x509.CertificateRevocationList, ...] = (),
    ) -> None:
        self.authorities: CaBundle = authorities
        self.revocations: tuple[x509.CertificateRevocationList, ...] = revocations
        digest = hashlib.sha256()
        for certificate in authorities.certificates:
            digest.update(certificate.fingerprint(SHA256()))
        for crl in revocations:
            digest.update(hashlib.sha256(crl.public_bytes(Encoding.DER)).digest())
        self.fingerprint: bytes = digest.digest()


class ClientAuth:
    """Whether and how clients identify themselves.

    A certificate that is shown must be good whatever the mode: issued by a trusted authority, valid
    now, meant for clients, not revoked.

    Args:
        trust: Whom to trust.
        mode: What happens to clients without a certificate.
        depth: Most authorities between a client's certificate and a trusted one.

    Attributes:
        trust: As given; replaced when the files it came from change.
        mode: As given.
        depth: As given.
        watched: The files it came from.

    Raises:
        ValueError: If the depth is negative.
    """

    __slots__ = ("depth", "mode", "trust", "watched")

    def __init__(
        self,
        trust: ClientTrust,
        mode: ClientAuthMode = ClientAuthMode.REQUIRE,
        *,
        depth: int = DEFAULT_DEPTH,
    ) -> None:
        if depth < 0:
            msg = f"the depth of a chain is 0 or more, not {depth}"
            raise ValueError(msg)
        self.trust: ClientTrust = trust
        self.mode: ClientAuthMode = mode
        self.depth: int = depth
        self.watched: list[WatchedFiles] = []

    @classmethod
    def from_files(
        cls,
        ca_path: str | os.PathLike[str],
        mode: ClientAuthMode = ClientAuthMode.REQUIRE,
        *,
        crl_path: str | os.PathLike[str] | None = None,
        depth: int = DEFAULT_DEPTH,
    ) -> ClientAuth:
        """Trust the authorities in a file, which is watched from then on. It blocks.

        Args:
            ca_path: PEM file with one or more authorities.
            mode: What happens to clients without a certificate.
            crl_path: PEM file with revocation lists, one of each authority; None to check none.
            depth: Most authorities between a client's certificate and a trusted one.

        Returns:
            The settings.

        Raises:
            Error: ``TLS_CONFIG_ERROR`` naming the file and the reason.
        """
        ca = Path(ca_path)
        crl = None if crl_path is None else Path(crl_path)

        def renew() -> Callable[[], None]:
            trust = _load(ca, crl)

            def apply() -> None:
                auth.trust = trust

            return apply

        watched = WatchedFiles((ca,) if crl is None else (ca, crl), renew)
        auth = cls(_load(ca, crl), mode, depth=depth)
        auth.watched.append(watched)
        return auth

    @property
    def key(self) -> tuple[bytes, ClientAuthMode, int]:
        """What tells it from others that a session must not be carried over to."""
        return self.trust.fingerprint, self.mode, self.depth

    def configure(self, context: SSL.Context) -> None:
        """Have a context ask for certificates.

        Args:
            context: Not used by a connection yet.
        """
        flags = SSL.VERIFY_PEER
        if self.mode is ClientAuthMode.REQUIRE:
            flags |= SSL.VERIFY_FAIL_IF_NO_PEER_CERT
        context.set_verify(flags)
        context.set_verify_depth(self.depth)
        store = context.get_cert_store()
        assert store is not None
        # What the user lists is trusted, whether it is a root or not.
        wanted = crypto.X509StoreFlags.PARTIAL_CHAIN
        for certificate in self.trust.authorities.certificates:
            context.add_client_ca(certificate)
            store.add_cert(crypto.X509.from_cryptography(certificate))
        for crl in self.trust.revocations:
            store.add_crl(crl)
            wanted |= crypto.X509StoreFlags.CRL_CHECK | crypto.X509StoreFlags.CRL_CHECK_ALL
        store.set_flags(wanted)


def _load(ca_path: Path, crl_path: Path | None) -> ClientTrust:
    try:
        authorities = CaBundle.from_file(ca_path)
    except Error as error:
        msg = f"client CA {ca_path}"
        raise Error(TLS_CONFIG_ERROR, msg, source=ErrorSource.INTERNAL, cause=error) from error
    _check_authorities(authorities, ca_path)
    return ClientTrust(authorities, () if crl_path is None else _load_crls(crl_path))


def _check_authorities(authorities: CaBundle, path: Path) -> None:
    now = dt.datetime.now(dt.UTC)
    expired = [each for each in authorities.certificates if each.not_valid_after_utc < now]
    names = ", ".join(
        f"{each.subject.rfc4514_string()} ({get_serial(each)}) expired on"
        f" {each.not_valid_after_utc:%Y-%m-%d}"
        for each in expired
    )
    if len(expired) == len(authorities.certificates):
        msg = f"client CA {path}: no authority in it is valid any more: {names}"
        raise Error(TLS_CONFIG_ERROR, msg, source=ErrorSource.INTERNAL)
    if expired:
        _logger.warning("client CA %s: %s", path, names)


def _load_crls(path: Path) -> tuple[x509.CertificateRevocationList, ...]:
    cause: Exception | None = None
    problem = "there is none in it"
    crls: tuple[x509.CertificateRevocationList, ...] = ()
    try:
        blocks = path.read_bytes().split(_CRL_END)[:-1]
        crls = tuple(x509.load_pem_x509_crl(block + _CRL_END) for block in blocks)
    except (OSError, ValueError) as error:
        problem, cause = "it cannot be read", error
    now = dt.datetime.now(dt.UTC)
    for crl in crls:
        end = crl.next_update_utc
        if end is not None and end < now:
            issuer = crl.issuer.rfc4514_string()
            problem, crls = f"that of {issuer} was good until {end:%Y-%m-%d %H:%M} UTC", ()
            break
    if not crls:
        msg = f"revocation lists {path}: {problem}"
        raise Error(TLS_CONFIG_ERROR, msg, source=ErrorSource.INTERNAL, cause=cause)
    return crls
