"""Files that change while a listener runs."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from typing import TYPE_CHECKING

import pytest
from OpenSSL import SSL

from pingora_core.listeners.tls import TlsAcceptor, TlsSettings
from pingora_core.listeners.tls.reload import WatchedFiles, keep_fresh, reload_now
from pingora_error import TLS_CONFIG_ERROR, Error
from tests.support.waiting import eventually
from tests.unit.pingora_core.listeners.tls.rig import (
    ask,
    client_context,
    connect_pyopenssl,
    listening,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.certificates import CertificateAuthority, IssuedCertificate

pytestmark = pytest.mark.usefixtures("no_leaks")


class Pair:
    """A certificate and a key in files that are replaced as renewal programs do."""

    def __init__(self, directory: Path, issued: IssuedCertificate) -> None:
        self.cert_path = directory / "live.pem"
        self.key_path = directory / "live.key"
        self.renew(issued)

    def renew(self, issued: IssuedCertificate) -> None:
        self.write(self.cert_path, issued.chain_pem)
        self.write(self.key_path, issued.key_pem)

    @staticmethod
    def write(path: Path, content: bytes) -> None:
        fresh = path.with_suffix(".new")
        fresh.write_bytes(content)
        fresh.replace(path)


@pytest.fixture
def issued(authority: CertificateAuthority) -> IssuedCertificate:
    return authority.intermediate().issue("a.example")


@pytest.fixture
def pair(issued: IssuedCertificate, tmp_path: Path) -> Pair:
    return Pair(tmp_path, issued)


@pytest.fixture
def settings(pair: Pair) -> TlsSettings:
    settings = TlsSettings.intermediate(pair.cert_path, pair.key_path)
    settings.reload_interval = 0.02
    return settings


async def test_a_renewed_pair_is_taken_over(
    authority: CertificateAuthority,
    issued: IssuedCertificate,
    pair: Pair,
    settings: TlsSettings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """New handshakes get it, connections in flight go on, and sessions are still good."""
    caplog.set_level(logging.INFO)
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    async with (
        listening(settings) as listener,
        connect_pyopenssl(listener.port, context, "a.example") as old,
    ):
        old.write(b"x")
        assert await old.read(5.0) == b"x"
        session = old.connection.get_session()
        assert (await ask(listener.port, client_context(authority))).serial == issued.serial
        renewed = authority.issue("a.example")
        pair.renew(renewed)
        await eventually(
            lambda: next(iter(settings.certificates)).cert_key.leaf == renewed.certificate
        )

        assert (await ask(listener.port, client_context(authority))).serial == renewed.serial
        old.write(b"still here")
        assert await old.read(5.0) == b"still here"
        async with connect_pyopenssl(listener.port, context, "a.example", session) as again:
            again.write(b"y")
            assert await again.read(5.0) == b"y"
        assert listener.tls.resumed
    assert f"{pair.cert_path}, {pair.key_path}: reloaded" in caplog.text


@pytest.mark.parametrize("what", ["garbage", "mismatch", "expired", "missing", "unreadable"])
async def test_a_bad_pair_is_refused_and_logged_once(
    authority: CertificateAuthority,
    issued: IssuedCertificate,
    pair: Pair,
    settings: TlsSettings,
    caplog: pytest.LogCaptureFixture,
    what: str,
) -> None:
    """The old one stays in use, and a good one is taken over as soon as it comes."""
    match what:
        case "garbage":
            pair.write(pair.cert_path, b"nothing")
        case "mismatch":
            pair.write(pair.cert_path, authority.issue("a.example").chain_pem)
        case "expired":
            pair.renew(authority.issue("a.example", expired=True))
        case "missing":
            pair.key_path.unlink()
        case _:
            pair.key_path.unlink()
            pair.key_path.mkdir()
    async with listening(settings) as listener:
        await eventually(lambda: "refused" in caplog.text)
        assert (await ask(listener.port, client_context(authority))).serial == issued.serial
        for _ in range(3):
            # Looks that find nothing new.
            await reload_now(settings.watched, force=False)
        refusals = [record for record in caplog.records if "refused" in record.getMessage()]
        assert len(refusals) == 1
        assert refusals[0].levelno == logging.ERROR
        assert str(pair.cert_path) in refusals[0].getMessage()

        if pair.key_path.is_dir():
            pair.key_path.rmdir()
        renewed = authority.issue("a.example")
        pair.renew(renewed)
        await eventually(
            lambda: next(iter(settings.certificates)).cert_key.leaf == renewed.certificate
        )
        assert (await ask(listener.port, client_context(authority))).serial == renewed.serial


async def test_no_handshake_fails_while_certificates_are_renewed(
    authority: CertificateAuthority, pair: Pair, settings: TlsSettings
) -> None:
    """Under load, with half-written renewals in between."""
    context = client_context(authority)
    renewals = [authority.issue("a.example") for _ in range(5)]
    serials = {renewal.serial for renewal in renewals}
    seen: set[int] = set()
    done = False

    async def client(port: int) -> None:
        while not done:
            seen.add((await ask(port, context)).serial)

    async with listening(settings) as listener:
        clients = [asyncio.ensure_future(client(listener.port)) for _ in range(4)]
        try:
            for renewal in renewals:
                pair.write(pair.cert_path, renewal.chain_pem)
                await asyncio.sleep(0.01)
                pair.write(pair.key_path, renewal.key_pem)
                await eventually(
                    lambda renewal=renewal: (  # type: ignore[misc]
                        renewal.serial in seen or any(each.done() for each in clients)
                    )
                )
        finally:
            done = True
            await asyncio.gather(*clients)
    assert serials <= seen


async def test_reloading_at_once_and_on_purpose(
    authority: CertificateAuthority, pair: Pair, settings: TlsSettings
) -> None:
    """Without waiting for the next look; what is wrong comes back to the caller."""
    settings.reload_interval = None
    acceptor = TlsAcceptor(settings)
    renewed = authority.issue("a.example", "new.example")
    pair.renew(renewed)

    assert await acceptor.reload() == []
    assert settings.certificates.names == ("a.example", "new.example")

    pair.write(pair.key_path, b"nothing")
    (error,) = await acceptor.reload()
    assert error.etype == TLS_CONFIG_ERROR
    assert settings.certificates.names == ("a.example", "new.example")
    # Nothing to do in the background then.
    await acceptor.run()


async def test_removed_certificates_stay_away(pair: Pair, settings: TlsSettings) -> None:
    """One that is removed while its files are read does not come back."""
    store = settings.certificates
    (certificate,) = store
    (files,) = certificate.watched
    (outcome,) = files.poll(force=True)
    assert not isinstance(outcome, Error)

    store.remove(certificate)
    outcome()

    assert not store.names
    assert store.default is None
    assert store.watched == []


def recorder(log: list[str], error: Error | None = None) -> Callable[[], Callable[[], None]]:
    def load() -> Callable[[], None]:
        log.append("load")
        if error is not None:
            raise error
        return lambda: log.append("apply")

    return load


@pytest.mark.parametrize("how", ["edited", "replaced", "touched", "link", "appeared", "gone"])
def test_every_way_of_changing_is_seen(tmp_path: Path, how: str) -> None:
    """Once; and nothing is read while nothing changes."""
    path, other = tmp_path / "file", tmp_path / "other"
    if how == "link":
        (tmp_path / "one").write_bytes(b"same")
        (tmp_path / "two").write_bytes(b"same")
        shutil.copystat(tmp_path / "one", tmp_path / "two")
        path.symlink_to("one")
    elif how != "appeared":
        path.write_bytes(b"same")
    log: list[str] = []
    files = WatchedFiles([path], recorder(log))
    assert not files.poll()

    match how:
        case "edited":
            path.write_bytes(b"changed")
        case "replaced":
            other.write_bytes(b"same")
            shutil.copystat(path, other)
            other.replace(path)
        case "touched":
            os.utime(path, ns=(1, 1))
        case "link":
            other.symlink_to("two")
            other.replace(path)
        case "appeared":
            path.write_bytes(b"new")
        case _:
            path.unlink()

    assert files.poll()
    assert not files.poll()
    assert log == ["load"]


async def test_one_bad_file_does_not_keep_others_from_being_renewed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each group of files is on its own."""
    log: list[str] = []
    bad = WatchedFiles([tmp_path / "bad"], recorder(log, Error(TLS_CONFIG_ERROR, "no")))
    good = WatchedFiles([tmp_path / "good"], recorder(log))

    refused = await reload_now([bad, good])

    assert [error.context for error in refused] == ["no"]
    assert log == ["load", "load", "apply"]


async def test_a_bug_in_a_loader_does_not_end_the_watch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged; the next look comes all the same."""
    looks = 0

    def watched() -> list[WatchedFiles]:
        nonlocal looks
        looks += 1
        if looks == 1:
            msg = "bug"
            raise RuntimeError(msg)
        return []

    watch = asyncio.ensure_future(keep_fresh(watched, 0.01))
    await eventually(lambda: looks > 1)
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)

    assert "looking for changed files failed" in caplog.text
