"""Settings: defaults, profiles, and everything that can be wrong with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from OpenSSL import SSL

from pingora_core.listeners import Listeners
from pingora_core.listeners.tls import (
    INTERMEDIATE,
    MODERN,
    CertificateStore,
    ClientAuth,
    TlsAccept,
    TlsAcceptor,
    TlsAlert,
    TlsSettings,
    TlsVersion,
)
from pingora_core.listeners.tls.contexts import ContextFactory
from pingora_core.protocols.tls import ALPN
from pingora_core.protocols.tls.client_hello import fatal_alert
from pingora_error import TLS_CONFIG_ERROR, Error
from tests.support.clock import FakeClock
from tests.unit.pingora_core.listeners.tls.rig import pair_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.certificates import CertificateAuthority, IssuedCertificate


@pytest.fixture
def issued(authority: CertificateAuthority) -> IssuedCertificate:
    return authority.issue("a.example")


@pytest.fixture
def settings(issued: IssuedCertificate) -> TlsSettings:
    return TlsSettings.intermediate(issued.cert_path, issued.key_path)


def problem_of(settings: TlsSettings) -> str:
    """Return why settings are refused."""
    with pytest.raises(Error) as caught:
        TlsAcceptor(settings)
    assert caught.value.etype == TLS_CONFIG_ERROR
    return caught.value.context


def test_the_default_is_the_intermediate_profile(settings: TlsSettings) -> None:
    """HTTP/1 only, one certificate for every name, the post-quantum group first."""
    assert settings.min_version is TlsVersion.TLS_1_2
    assert settings.max_version is TlsVersion.TLS_1_3
    assert settings.ciphers == INTERMEDIATE.ciphers
    assert settings.groups[0] == "X25519MLKEM768"
    assert settings.alpn is ALPN.H1
    assert settings.certificates.default is not None
    assert settings.certificates.names == ("a.example",)
    assert all(cipher.startswith("ECDHE-") for cipher in settings.ciphers)


def test_the_modern_profile_is_tls_1_3(issued: IssuedCertificate) -> None:
    """And may be replaced by one of the user's own."""
    settings = TlsSettings.modern(issued.cert_path, issued.key_path)
    versions = [settings.min_version]
    for profile in (INTERMEDIATE, MODERN):
        settings.use_profile(profile)
        versions.append(settings.min_version)

    assert versions == [TlsVersion.TLS_1_3, TlsVersion.TLS_1_2, TlsVersion.TLS_1_3]


def test_unknown_names_are_told_all_at_once(settings: TlsSettings) -> None:
    """Each with the attribute it is in; OpenSSL alone would pass over most of them."""
    settings.ciphers = ("ECDHE-RSA-AES128-GCM-SHA256", "NO-SUCH-CIPHER", "!aNULL", "@SECLEVEL=2")
    settings.ciphersuites = ("TLS_AES_128_GCM_SHA256", "TLS_NONE")
    settings.groups = ("X25519", "no-such-group")
    settings.handshake_timeout = 0.0
    settings.reload_interval = -1.0

    problem = problem_of(settings)

    assert "ciphers: OpenSSL does not know 'NO-SUCH-CIPHER'" in problem
    assert "ciphersuites: OpenSSL does not know 'TLS_NONE'" in problem
    assert "groups: OpenSSL does not know 'no-such-group'" in problem
    assert "handshake_timeout: got 0.0, allowed: more than 0" in problem
    assert "reload_interval: got -1.0" in problem
    assert "aNULL" not in problem
    assert "SECLEVEL" not in problem


def test_versions_and_lists_must_make_sense(settings: TlsSettings) -> None:
    """A range that is empty, or a version without anything to speak it with."""
    settings.min_version, settings.max_version = TlsVersion.TLS_1_3, TlsVersion.TLS_1_2
    settings.groups = ()
    assert "min_version: TLS_1_3 is newer than TLS_1_2" in problem_of(settings)
    assert "groups: empty" in problem_of(settings)

    settings.use_profile(INTERMEDIATE)
    settings.ciphers = settings.ciphersuites = ()
    assert "ciphers: empty, allowed: at least one for TLS 1.2" in problem_of(settings)
    assert "ciphersuites: empty, allowed: at least one for TLS 1.3" in problem_of(settings)

    settings.use_profile(MODERN)
    settings.ciphers = ()
    TlsAcceptor(settings)
    settings.use_profile(INTERMEDIATE)
    settings.max_version, settings.ciphersuites = TlsVersion.TLS_1_2, ()
    TlsAcceptor(settings)


def test_ciphers_that_cancel_each_other_out_are_refused(settings: TlsSettings) -> None:
    """Each of them is known, and nothing is left."""
    settings.ciphers = ("ECDHE+AESGCM", "!ALL")

    assert "OpenSSL refuses the ciphers: no cipher match" in problem_of(settings)


def test_groups_that_do_not_go_together_are_refused(settings: TlsSettings) -> None:
    """Each of them is known."""
    # An asterisk asks for a key share at once, of which OpenSSL allows four.
    settings.groups = ("*X25519MLKEM768", "*X25519", "*P-256", "*P-384", "*P-521", "*X448")

    assert "does not accept the groups" in problem_of(settings)


def test_nobody_to_ask_for_a_certificate_is_a_mistake() -> None:
    """An empty store is fine where callbacks answer."""
    assert "certificates: none" in problem_of(TlsSettings())

    TlsAcceptor(TlsSettings(callbacks=TlsAccept()))


def test_a_weak_key_is_refused_where_it_is_added(authority: CertificateAuthority) -> None:
    """What OpenSSL would not use is not found out by the first client."""
    weak = CertificateStore()
    settings = TlsSettings(certificates=weak)
    weak.add(pair_of(authority.issue("a.example")), default=True)
    # Stricter than the default.
    settings.ciphers = (*settings.ciphers, "@SECLEVEL=5")

    assert "OpenSSL refuses <CertKey certificate 'O=Test Organization,CN=a.example'" in problem_of(
        settings
    )


def test_a_keylog_that_cannot_be_written_is_a_mistake(
    settings: TlsSettings, tmp_path: Path
) -> None:
    """Whoever asks for keys must not look for them in vain."""
    settings.keylog = tmp_path / "missing" / "keys"

    assert f"keylog: {settings.keylog} cannot be written to: No such file" in problem_of(settings)


@pytest.mark.parametrize("variable", [None, "", "keys"])
def test_the_keylog_follows_the_environment_when_asked_to(
    settings: TlsSettings, monkeypatch: pytest.MonkeyPatch, variable: str | None
) -> None:
    """True means what the variable says, if anything."""
    monkeypatch.delenv("SSLKEYLOGFILE", raising=False)
    if variable is not None:
        monkeypatch.setenv("SSLKEYLOGFILE", variable)

    assert settings.keylog_path is None
    settings.keylog = True
    assert settings.keylog_path == (variable or None)
    settings.keylog = "other"
    assert settings.keylog_path == "other"


def test_listeners_are_made_with_a_certificate(issued: IssuedCertificate, tmp_path: Path) -> None:
    """The short forms; mistakes are told at once."""
    listeners = Listeners.tls("127.0.0.1:0", issued.cert_path, issued.key_path)
    listeners.add_tls("[::1]:0", issued.cert_path, issued.key_path)

    assert [type(endpoint.acceptor) for endpoint in listeners.endpoints] == [TlsAcceptor] * 2
    with pytest.raises(Error, match="No such file"):
        listeners.add_tls("127.0.0.1:0", tmp_path / "none", issued.key_path)
    assert len(listeners.endpoints) == 2


def test_ticket_keys_are_renewed(settings: TlsSettings, authority: CertificateAuthority) -> None:
    """The base context, which holds them, is as old as the setting allows and no older."""
    settings.ticket_key_lifetime = 10.0
    clock = FakeClock()
    contexts = ContextFactory(settings, clock)
    first = contexts._base(None)
    clock.advance(9.0)
    assert contexts._base(None) is first
    clock.advance(2.0)
    assert contexts._base(None) is not first


def test_base_contexts_are_bounded(
    settings: TlsSettings, authority: CertificateAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callbacks may bring any number of authorities."""
    monkeypatch.setattr("pingora_core.listeners.tls.contexts._MAX_BASES", 2)
    contexts = ContextFactory(settings)
    for depth in range(5):
        contexts._base(ClientAuth.from_files(authority.cert_path, depth=depth))

    assert len(contexts._bases) == 2


def test_leaf_contexts_are_shared_by_equal_certificates(
    settings: TlsSettings, issued: IssuedCertificate
) -> None:
    """A callback that parses its certificate each time costs no context each time."""
    contexts = ContextFactory(settings)
    connections = [contexts.connection(pair_of(issued), ALPN.H1, None) for _ in range(3)]

    assert len(contexts) == 1
    assert len({id(connection.get_context()) for connection in connections}) == 1
    assert isinstance(connections[0], SSL.Connection)


def test_alerts_are_records_in_clear() -> None:
    """The numbers are those of RFC 8446."""
    assert fatal_alert(TlsAlert.UNRECOGNIZED_NAME)[-2:] == b"\x02\x70"
    assert fatal_alert(TlsAlert.ACCESS_DENIED)[-2:] == b"\x02\x31"
