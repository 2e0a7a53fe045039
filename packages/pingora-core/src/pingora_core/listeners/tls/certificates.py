"""Which certificate a client gets: by the name it asks for and by what it can verify.

Names are matched as RFC 9525 says: exactly, or by a wildcard that stands for one whole label, the
leftmost. A name may have several certificates with keys of different kinds; the client gets the
first kind that it can verify, cheap keys first.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pingora_core.listeners.tls.checks import check_certificate, names_of, normalize_pattern
from pingora_core.listeners.tls.key_kinds import KeyKind
from pingora_core.listeners.tls.ocsp import parse_ocsp_response, read_ocsp_response
from pingora_core.listeners.tls.reload import WatchedFiles
from pingora_core.protocols.tls.certificate import CertKey
from pingora_error import TLS_CONFIG_ERROR, Error, ErrorSource

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator

    from pingora_core.listeners.tls.ocsp import OcspResponse
    from pingora_core.listeners.tls.reload import Watched
    from pingora_core.protocols.tls.client_hello import ClientHello

__all__ = ["CertificateStore", "ServerCertificate"]


class ServerCertificate:
    """One certificate of a store; made by the store.

    A renewal changes what it holds; connections that are open keep what they began with.

    Attributes:
        cert_key: The certificate with its chain and key.
        names: The names and wildcards that it is used for.
        ocsp_response: What is stapled; None for nothing.
        watched: The files it came from, each group on its own; empty if it came from memory.
    """

    __slots__ = ("cert_key", "fixed_names", "kind", "names", "ocsp_response", "watched")

    def __init__(
        self,
        cert_key: CertKey,
        names: tuple[str, ...] | None,
        ocsp_response: OcspResponse | None,
    ) -> None:
        self.fixed_names: tuple[str, ...] | None = names
        self.watched: list[WatchedFiles] = []
        self.ocsp_response: OcspResponse | None = ocsp_response
        self.cert_key: CertKey = cert_key
        self.names: tuple[str, ...] = ()
        self.kind: KeyKind = KeyKind.EC
        self.hold(cert_key)

    def hold(self, cert_key: CertKey) -> None:
        """Hold another certificate; for the store, which knows it by its names.

        Args:
            cert_key: The new one.
        """
        if cert_key != self.cert_key:
            # It speaks of the old certificate; the new one's file is read when it changes.
            self.ocsp_response = None
        self.cert_key = cert_key
        self.kind = KeyKind.of(cert_key.key)
        self.names = names_of(cert_key) if self.fixed_names is None else self.fixed_names

    def __repr__(self) -> str:
        return f"<ServerCertificate for {', '.join(self.names) or 'no name'}: {self.cert_key!r}>"


class CertificateStore:
    """Certificates by server name; may be changed while it is in use.

    All changes belong to the event loop's thread once a listener uses the store.

    Examples:
        >>> store = CertificateStore()
        >>> store.add_files("example.org.pem", "example.org.key", default=True)  # doctest: +SKIP
        >>> store.add_files(
        ...     "wildcard.pem", "wildcard.key", names=["*.example.com"]
        ... )  # doctest: +SKIP
    """

    def __init__(self) -> None:
        self._certificates: list[ServerCertificate] = []
        self._by_name: dict[str, tuple[ServerCertificate, ...]] = {}
        self._defaults: tuple[ServerCertificate, ...] = ()

    def __len__(self) -> int:
        return len(self._certificates)

    def __iter__(self) -> Iterator[ServerCertificate]:
        return iter(tuple(self._certificates))

    @property
    def names(self) -> tuple[str, ...]:
        """Every name and wildcard that has a certificate, sorted."""
        return tuple(sorted(self._by_name))

    @property
    def default(self) -> ServerCertificate | None:
        """Who asks for no name, or for an unknown one, gets this; None if such are refused."""
        return self._defaults[0] if self._defaults else None

    @property
    def is_choosing(self) -> bool:
        """Whether it depends on the client which certificate it gets."""
        return len(self._certificates) != 1 or not self._defaults

    @property
    def watched(self) -> list[Watched]:
        """The files that certificates came from."""
        return [files for certificate in self._certificates for files in certificate.watched]

    # ---------------------------------------------------------------- choosing

    def find(
        self, server_name: str | None, hello: ClientHello | None = None
    ) -> ServerCertificate | None:
        """Choose a certificate. HOT.

        Args:
            server_name: What the client asks for, lower case, no dot at its end; None for no name.
            hello: Tells which kinds of keys the client can verify; None for all.

        Returns:
            The certificate; None if there is none for the name and no default.
        """
        found = self._defaults
        if server_name is not None:
            by_name = self._by_name
            exact = by_name.get(server_name)
            if exact is None:
                _, _, parent = server_name.partition(".")
                exact = by_name.get(f"*.{parent}")
            if exact is not None:
                found = exact
        if len(found) > 1 and hello is not None:
            for certificate in found:
                if certificate.kind.is_verified_by(hello):
                    return certificate
        return found[0] if found else None

    # ---------------------------------------------------------------- changing

    def add(
        self,
        cert_key: CertKey,
        names: Iterable[str] | None = None,
        *,
        default: bool = False,
        ocsp_response: bytes | None = None,
    ) -> ServerCertificate:
        """Add a certificate.

        It takes the place of one for the same names with the same kind of key; one with another
        kind stays beside it.

        Args:
            cert_key: The certificate.
            names: Names and wildcards to use it for; None for those that are in it.
            default: Whether it is for clients that ask for no name, or for an unknown one, too.
            ocsp_response: What to staple, DER; None for nothing.

        Returns:
            Its place in the store, for `replace` and `remove`.

        Raises:
            Error: ``TLS_CONFIG_ERROR`` if it is not valid now, or the OCSP response is not about
                it.
        """
        patterns = _patterns(names)
        check_certificate(cert_key)
        staple = None if ocsp_response is None else parse_ocsp_response(ocsp_response, cert_key)
        certificate = ServerCertificate(cert_key, patterns, staple)
        self._certificates.append(certificate)
        self._index(certificate, default=default)
        return certificate

    def add_files(
        self,
        cert_path: str | os.PathLike[str],
        key_path: str | os.PathLike[str],
        names: Iterable[str] | None = None,
        *,
        default: bool = False,
        ocsp_path: str | os.PathLike[str] | None = None,
        password: bytes | None = None,
    ) -> ServerCertificate:
        """Add a certificate from PEM files, which are watched from then on. It blocks.

        Args:
            cert_path: File with the certificate, then each its issuer.
            key_path: File with its private key; may be the same file.
            names: Names and wildcards to use it for; None for those that are in it.
            default: Whether it is for clients that ask for no name, or for an unknown one, too.
            ocsp_path: File with the OCSP response to staple, DER; None for none.
            password: What the key is encrypted with; None if it is not.

        Returns:
            Its place in the store.

        Raises:
            Error: ``TLS_CONFIG_ERROR`` naming the file and the reason.
        """
        pair = (Path(cert_path), Path(key_path))
        staple = None if ocsp_path is None else Path(ocsp_path)
        return self.prepare_files(pair, names, default=default, ocsp=staple, password=password)()

    def prepare_files(
        self,
        pair: tuple[Path, Path],
        names: Iterable[str] | None = None,
        *,
        default: bool = False,
        ocsp: Path | None = None,
        password: bytes | None = None,
    ) -> Callable[[], ServerCertificate]:
        """Do the first half of `add_files`, the one that blocks and may be done in a thread.

        Args:
            pair: As for `add_files`.
            names: As for `add_files`.
            default: As for `add_files`.
            ocsp: As for `add_files`.
            password: As for `add_files`.

        Returns:
            The second half.

        Raises:
            Error: As for `add_files`.
        """

        def load_pair() -> CertKey:
            return _load_pair(*pair, password)

        # Before the files are read: what changes in between is seen at the first look.
        watched = [WatchedFiles(pair, lambda: self._renewal(certificate, load_pair()))]
        if ocsp is not None:
            # The pair belongs to it: a renewed certificate needs its own response.
            watched.append(WatchedFiles((ocsp, *pair), lambda: _stapling(certificate, ocsp)))
        cert_key = load_pair()
        certificate = ServerCertificate(cert_key, _patterns(names), None)
        if ocsp is not None:
            _stapling(certificate, ocsp)()
        certificate.watched += watched

        def add() -> ServerCertificate:
            self._certificates.append(certificate)
            self._index(certificate, default=default)
            return certificate

        return add

    def replace(self, certificate: ServerCertificate, cert_key: CertKey) -> None:
        """Renew a certificate; handshakes that begin from now on get the new one.

        Args:
            certificate: Its place in the store.
            cert_key: The new certificate.

        Raises:
            Error: ``TLS_CONFIG_ERROR`` if it is not valid now; then the old one stays.
            KeyError: If the place is not in the store (any more).
        """
        check_certificate(cert_key)
        self._require(certificate)
        self._renewal(certificate, cert_key)()

    def remove(self, certificate: ServerCertificate) -> None:
        """Take a certificate away; open connections keep it.

        Args:
            certificate: Its place in the store.

        Raises:
            KeyError: If it is not in the store (any more).
        """
        self._require(certificate)
        self._forget(certificate)
        self._defaults = tuple(each for each in self._defaults if each is not certificate)
        self._certificates.remove(certificate)

    # ----------------------------------------------------------------- private

    def _require(self, certificate: ServerCertificate) -> None:
        if not any(each is certificate for each in self._certificates):
            raise KeyError(certificate)

    def _renewal(self, certificate: ServerCertificate, cert_key: CertKey) -> Callable[[], None]:
        def apply() -> None:
            # It may have been removed while its files were being read.
            if not any(each is certificate for each in self._certificates):
                return
            default = any(each is certificate for each in self._defaults)
            self._forget(certificate)
            certificate.hold(cert_key)
            self._index(certificate, default=default)

        return apply

    def _index(self, certificate: ServerCertificate, *, default: bool) -> None:
        displaced: set[ServerCertificate] = set()
        for name in certificate.names:
            beside = self._by_name.get(name, ())
            displaced.update(each for each in beside if each.kind is certificate.kind)
            self._by_name[name] = _with(beside, certificate)
        if default:
            displaced.update(each for each in self._defaults if each.kind is certificate.kind)
            self._defaults = _with(self._defaults, certificate)
        for each in displaced - {certificate}:
            if not self._is_in_use(each):
                self._certificates.remove(each)

    def _is_in_use(self, certificate: ServerCertificate) -> bool:
        return certificate in self._defaults or any(
            certificate in self._by_name.get(name, ()) for name in certificate.names
        )

    def _forget(self, certificate: ServerCertificate) -> None:
        for name in certificate.names:
            beside = tuple(each for each in self._by_name[name] if each is not certificate)
            if beside:
                self._by_name[name] = beside
            else:
                del self._by_name[name]


def _patterns(names: Iterable[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(map(normalize_pattern, names))


def _with(
    beside: tuple[ServerCertificate, ...], certificate: ServerCertificate
) -> tuple[ServerCertificate, ...]:
    others = (each for each in beside if each.kind is not certificate.kind)
    return tuple(sorted((*others, certificate), key=lambda each: each.kind.preference))


def _load_pair(cert_path: Path, key_path: Path, password: bytes | None) -> CertKey:
    try:
        cert_key = CertKey.from_files(cert_path, key_path, password=password)
        check_certificate(cert_key)
    except Error as error:
        msg = f"certificate {cert_path} with key {key_path}"
        raise Error(TLS_CONFIG_ERROR, msg, source=ErrorSource.INTERNAL, cause=error) from error
    return cert_key


def _stapling(certificate: ServerCertificate, path: Path) -> Callable[[], None]:
    response = read_ocsp_response(path, certificate.cert_key)

    def apply() -> None:
        certificate.ocsp_response = response

    return apply
