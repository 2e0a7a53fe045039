"""A directory of certificates: pairs of files that are put there are served, at once and by name."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pingora_core.listeners.tls.certificates import CertificateStore
from pingora_core.listeners.tls.reload import stamp_of
from pingora_error import TLS_CONFIG_ERROR, Error, ErrorSource

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from pingora_core.listeners.tls.certificates import ServerCertificate
    from pingora_core.listeners.tls.reload import Apply, Stamp, Watched

__all__ = ["CertificateDirectory"]


class CertificateDirectory(CertificateStore):
    """A store with every certificate of a directory, which is watched.

    A certificate is a pair of PEM files, ``NAME.crt`` (or ``NAME.pem``) and ``NAME.key``. It is
    used for the names that are in the certificate, whatever the files are called. Pairs that are
    put into the directory later are added, those that are taken out are removed, those that change
    are renewed. Making one blocks.

    Args:
        path: The directory.
        default: Which pair is for clients that ask for no name or for an unknown one; None, or if
            there is no pair of that name: such clients are refused.

    Raises:
        Error: ``TLS_CONFIG_ERROR`` naming everything in the directory that cannot be used.
    """

    def __init__(self, path: str | os.PathLike[str], default: str | None = "default") -> None:
        super().__init__()
        self._path = Path(path)
        self._default = default
        self._present: dict[str, ServerCertificate] = {}
        # What could not be used, so that it is told once.
        self._refused: dict[str, Stamp] = {}
        problems: list[str] = []
        for outcome in self.poll():
            if isinstance(outcome, Error):
                problems.append(str(outcome))
            else:
                outcome()
        if problems:
            raise Error(TLS_CONFIG_ERROR, "; ".join(problems), source=ErrorSource.INTERNAL)

    @property
    def watched(self) -> list[Watched]:
        """The files that certificates came from, and the directory."""
        return [*super().watched, self]

    def poll(self, *, force: bool = False) -> list[Apply | Error]:
        """Look for pairs that have come or gone. It blocks.

        Args:
            force: Try again what was refused before.

        Returns:
            For each change what puts it in place, or the error if it cannot be used.
        """
        try:
            pairs = self._look()
        except OSError as error:
            msg = f"directory {self._path}"
            return [Error(TLS_CONFIG_ERROR, msg, source=ErrorSource.INTERNAL, cause=error)]
        # A copy: this runs in a thread while the event loop puts other things in place.
        present = set(self._present)
        outcomes: list[Apply | Error] = []
        outcomes.extend(partial(self._drop, name) for name in present - pairs.keys())
        came = [name for name in pairs if name not in present]
        self._refused = {name: stamp for name, stamp in self._refused.items() if name in came}
        for name in came:
            outcome = self._load(name, pairs[name], force=force)
            if outcome is not None:
                outcomes.append(outcome)
        return outcomes

    def _look(self) -> dict[str, tuple[Path, Path]]:
        files = {entry.name: entry for entry in self._path.iterdir()}
        pairs: dict[str, tuple[Path, Path]] = {}
        for name in sorted(files):
            stem, dot, ending = name.rpartition(".")
            # A certificate whose key has not been written yet will be there next time.
            if dot and ending in {"crt", "pem"} and f"{stem}.key" in files:
                pairs[stem] = files[name], files[f"{stem}.key"]
        return pairs

    def _load(self, name: str, pair: tuple[Path, Path], *, force: bool) -> Apply | Error | None:
        stamp = stamp_of(*pair)
        if self._refused.get(name) == stamp and not force:
            return None
        try:
            add = self.prepare_files(pair, default=name == self._default)
        except Error as error:
            self._refused[name] = stamp
            return error
        return partial(self._take, name, add)

    def _take(self, name: str, add: Callable[[], ServerCertificate]) -> None:
        self._present[name] = add()

    def _drop(self, name: str) -> None:
        certificate = self._present.pop(name, None)
        if certificate is not None and certificate in list(self):
            self.remove(certificate)
        present = list(self)
        # Those whose place it had taken are found again at the next look.
        self._present = {stem: each for stem, each in self._present.items() if each in present}

    def __str__(self) -> str:
        return f"directory {self._path}"
