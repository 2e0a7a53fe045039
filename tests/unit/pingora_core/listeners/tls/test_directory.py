"""A directory of certificates."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from pingora_core.listeners.tls import CertificateDirectory, TlsSettings
from pingora_core.listeners.tls.reload import reload_now
from pingora_error import TLS_CONFIG_ERROR, Error
from tests.support.waiting import eventually
from tests.unit.pingora_core.listeners.tls.rig import ask, client_context, listening

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.certificates import CertificateAuthority, IssuedCertificate

pytestmark = pytest.mark.usefixtures("no_leaks")


def put(directory: Path, name: str, issued: IssuedCertificate, ending: str = "crt") -> None:
    (directory / f"{name}.key").write_bytes(issued.key_pem)
    (directory / f"{name}.{ending}").write_bytes(issued.chain_pem)


async def test_pairs_come_and_go(
    authority: CertificateAuthority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is no pair is left alone."""
    caplog.set_level(logging.INFO)
    put(tmp_path, "one", authority.issue("a.example"))
    put(tmp_path, "default", authority.issue("b.example"), "pem")
    (tmp_path / "README").write_bytes(b"nothing")
    (tmp_path / "lonely.crt").write_bytes(b"nothing")
    store = CertificateDirectory(tmp_path)
    assert list(store.names) == ["a.example", "b.example"]
    assert store.default is store.find("b.example")

    put(tmp_path, "two", authority.issue("c.example"))
    assert await reload_now(store.watched, force=False) == []
    assert list(store.names) == ["a.example", "b.example", "c.example"]

    (tmp_path / "one.crt").unlink()
    (tmp_path / "default.key").unlink()
    await reload_now(store.watched, force=False)
    await reload_now(store.watched, force=False)
    assert list(store.names) == ["c.example"]
    assert store.default is None
    assert f"directory {tmp_path}: reloaded" in caplog.text


async def test_a_bad_pair_is_told_once_and_tried_again_when_it_changes(
    authority: CertificateAuthority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Others are served meanwhile."""
    put(tmp_path, "one", authority.issue("a.example"))
    store = CertificateDirectory(tmp_path)
    put(tmp_path, "two", authority.issue("b.example", expired=True))

    for _ in range(3):
        await reload_now(store.watched, force=False)
    assert caplog.text.count("expired on 20") == 1
    assert list(store.names) == ["a.example"]
    # On purpose it is tried again.
    assert len(await reload_now([store])) == 1

    put(tmp_path, "two", authority.issue("b.example"))
    await reload_now(store.watched, force=False)
    assert list(store.names) == ["a.example", "b.example"]


async def test_a_certificate_that_was_covered_comes_back(
    authority: CertificateAuthority, tmp_path: Path
) -> None:
    """Two pairs for one name: the later one is used for as long as it is there."""
    old, new = authority.issue("a.example"), authority.issue("a.example")
    put(tmp_path, "old", old)
    store = CertificateDirectory(tmp_path)
    put(tmp_path, "new", new)
    await reload_now(store.watched, force=False)
    (covering,) = store
    assert covering.cert_key.leaf == new.certificate

    (tmp_path / "new.key").unlink()
    await reload_now([store], force=False)
    await reload_now([store], force=False)

    (back,) = store
    assert back.cert_key.leaf == old.certificate

    put(tmp_path, "new", new)
    await reload_now([store], force=False)
    (tmp_path / "old.key").unlink()
    await reload_now([store], force=False)
    (last,) = store
    assert last.cert_key.leaf == new.certificate


async def test_a_directory_that_disappears_keeps_what_it_held(
    authority: CertificateAuthority, tmp_path: Path
) -> None:
    """A file system that is gone for a moment must not be an outage."""
    directory = tmp_path / "certs"
    directory.mkdir()
    put(directory, "one", authority.issue("a.example"))
    store = CertificateDirectory(directory)
    directory.rename(tmp_path / "away")

    refused = await reload_now([store])

    assert len(refused) == 1
    assert list(store.names) == ["a.example"]


def test_what_cannot_be_used_at_the_start_is_told_at_once(
    authority: CertificateAuthority, tmp_path: Path
) -> None:
    """All of it; and a directory that is none."""
    put(tmp_path, "one", authority.issue("a.example", expired=True))
    put(tmp_path, "two", authority.issue("b.example"))
    (tmp_path / "two.key").write_bytes(b"nothing")
    with pytest.raises(Error) as caught:
        CertificateDirectory(tmp_path)
    assert caught.value.etype == TLS_CONFIG_ERROR
    assert str(tmp_path / "one.crt") in caught.value.context
    assert str(tmp_path / "two.crt") in caught.value.context

    with pytest.raises(Error, match="No such file"):
        CertificateDirectory(tmp_path / "missing")


async def test_a_listener_serves_from_it(authority: CertificateAuthority, tmp_path: Path) -> None:
    """A name that is put there while it runs is served without a restart."""
    put(tmp_path, "one", authority.issue("a.example"))
    store = CertificateDirectory(tmp_path)
    settings = TlsSettings(certificates=store, reload_interval=0.02)
    context = client_context(authority)
    async with listening(settings) as listener:
        await ask(listener.port, context)
        added = authority.issue("b.example")
        put(tmp_path, "two", added)
        await eventually(lambda: "b.example" in store.names)
        assert (await ask(listener.port, context, "b.example")).serial == added.serial
