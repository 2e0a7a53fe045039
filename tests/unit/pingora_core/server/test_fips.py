from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from cryptography.exceptions import UnsupportedAlgorithm

from pingora_core.conf import CONFIG_ERROR, Opt, ServerConf
from pingora_core.protocols.tls import openssl
from pingora_core.server import Server
from pingora_error import Error

if TYPE_CHECKING:
    from pathlib import Path

# What an operator writes who has no FIPS provider, and does not see that it is missing.
WITHOUT_PROVIDER = """
openssl_conf = openssl_init
[openssl_init]
providers = provider_sect
alg_section = algorithm_sect
[provider_sect]
base = base_sect
[base_sect]
activate = 1
[algorithm_sect]
default_properties = fips=yes
"""

PROGRAM = """
from pingora_core.conf import Opt
from pingora_core.server import Server
Server(Opt.parse_args(["-c", {conf!r}, "-t"])).run_forever()
"""


def test_a_server_that_was_asked_for_fips_does_not_start_without(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line says what is missing, as for every mistake in the configuration."""
    with pytest.raises(Error) as caught:
        Server(conf=ServerConf(fips=True))
    assert caught.value.etype == CONFIG_ERROR
    assert "ServerConf: fips: got true, allowed: false, because fips=yes is not" in str(
        caught.value
    )

    with pytest.raises(SystemExit) as ended:
        Server(Opt(), ServerConf(fips=True))
    assert ended.value.code == 2
    assert "default properties of OpenSSL" in capsys.readouterr().err


def test_a_server_that_was_not_asked_for_fips_does_not_care() -> None:
    """False is the default, and starts with any OpenSSL."""
    assert Server(conf=ServerConf()).configuration.fips is False


def test_a_server_with_fips_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """If OpenSSL says so and can compute something, as with a loaded provider."""
    monkeypatch.setattr(
        "pingora_core.protocols.tls.openssl.rust_openssl.is_fips_enabled", lambda: True
    )

    assert openssl.find_fips_problem() is None
    assert Server(conf=ServerConf(fips=True)).configuration.fips is True


def test_a_library_that_cannot_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for FIPS algorithms only, without a provider that has any."""
    monkeypatch.setattr(
        "pingora_core.protocols.tls.openssl.rust_openssl.is_fips_enabled", lambda: True
    )

    def refuse(_: object) -> None:
        msg = "no SHA-256"
        raise UnsupportedAlgorithm(msg)

    monkeypatch.setattr("pingora_core.protocols.tls.openssl.hashes.Hash", refuse)
    problem = openssl.find_fips_problem()
    assert problem is not None
    assert problem.endswith("has not loaded its FIPS provider")


def test_properties_without_a_provider_are_not_enough(tmp_path: Path) -> None:
    """A process whose OpenSSL may use FIPS algorithms only, and has none, does not start."""
    (tmp_path / "openssl.cnf").write_text(WITHOUT_PROVIDER)
    conf = tmp_path / "conf.yaml"
    conf.write_text("fips: true\n")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(conf=str(conf))],
        env={**os.environ, "OPENSSL_CONF": str(tmp_path / "openssl.cnf")},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert done.returncode == 2, done.stderr
    assert f"{conf}: fips: got true" in done.stderr
    assert "has not loaded its FIPS provider" in done.stderr
