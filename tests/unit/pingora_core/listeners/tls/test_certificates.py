"""The store: which certificate a name gets, and how the store is changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ed448, ed25519
from hypothesis import given, settings as hypothesis_settings, strategies as st

from pingora_core.listeners.tls import CertificateStore
from pingora_core.listeners.tls.key_kinds import KeyKind
from pingora_core.protocols.tls import matches_dns_name
from pingora_core.protocols.tls.client_hello import ClientHello
from pingora_error import TLS_CONFIG_ERROR, Error
from tests.support.certificates import CertificateAuthority
from tests.unit.pingora_core.listeners.tls.rig import issue_rsa, pair_of

if TYPE_CHECKING:
    from pathlib import Path

    from pingora_core.protocols.tls import CertKey

_LABELS = st.sampled_from(["a", "b", "www", "example", "com"])
_NAMES = st.lists(_LABELS, min_size=1, max_size=4).map(".".join)
_PATTERNS = st.tuples(st.booleans(), st.lists(_LABELS, min_size=2, max_size=3).map(".".join)).map(
    lambda pair: f"*.{pair[1]}" if pair[0] else pair[1]
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> list[CertKey]:
    authority = CertificateAuthority(tmp_path_factory.mktemp("shared"))
    return [pair_of(authority.issue("unused.example")) for _ in range(5)]


def hello(
    *, algorithms: tuple[int, ...], suites: tuple[int, ...] = (), versions: tuple[int, ...] = ()
) -> ClientHello:
    return ClientHello(
        legacy_version=0x0303,
        random=bytes(32),
        session_id=b"",
        cipher_suites=suites,
        extensions=(),
        server_name=None,
        alpn_protocols=(),
        supported_versions=versions,
        groups=(),
        signature_algorithms=algorithms,
        raw=b"",
    )


def test_names_come_from_the_certificate(authority: CertificateAuthority) -> None:
    """Every DNS name in it counts, addresses do not."""
    store = CertificateStore()
    store.add(pair_of(authority.issue("A.example", "*.B.example", "127.0.0.1")))

    assert store.names == ("*.b.example", "a.example")
    assert store.default is None
    assert store.find("a.example") is store.find("x.b.example") is next(iter(store))
    assert store.find("b.example") is None
    assert store.find("x.y.b.example") is None
    assert store.find(None) is None


def test_a_certificate_without_alternative_names_has_its_common_name(
    authority: CertificateAuthority,
) -> None:
    """Old private certificates are found too; what is no host name is not an error."""
    store = CertificateStore()
    store.add(pair_of(authority.issue(common_name="old.example")))
    store.add(pair_of(authority.issue(common_name="My old server")))

    assert store.names == ("old.example",)
    assert len(store) == 2


def test_exact_goes_before_wildcard_before_default(authority: CertificateAuthority) -> None:
    """The most specific certificate wins, whatever the order of adding."""
    store = CertificateStore()
    exact = store.add(pair_of(authority.issue("www.a.example")))
    fallback = store.add(pair_of(authority.issue("fallback.example")), default=True)
    wildcard = store.add(pair_of(authority.issue("*.a.example")))

    assert store.find("www.a.example") is exact
    assert store.find("ftp.a.example") is wildcard
    assert store.find("a.example") is fallback
    assert store.find(None) is fallback
    assert store.default is fallback


@hypothesis_settings(deadline=None)
@given(patterns=st.lists(_PATTERNS, max_size=5, unique=True), name=_NAMES)
def test_matching_agrees_with_the_rules_for_certificates(
    shared: list[CertKey], patterns: list[str], name: str
) -> None:
    """A name finds a certificate if, and only if, clients would accept it for that name."""
    store = CertificateStore()
    for cert_key, pattern in zip(shared, patterns, strict=False):
        store.add(cert_key, [pattern])

    found = store.find(name)

    matching = {pattern for pattern in patterns if matches_dns_name(pattern, name)}
    if not matching:
        assert found is None
    else:
        assert found is not None
        assert found.names[0] == (name if name in matching else next(iter(matching)))


def test_given_names_replace_those_of_the_certificate(authority: CertificateAuthority) -> None:
    """International names are looked up as they are on the wire."""
    store = CertificateStore()
    store.add(pair_of(authority.issue("a.example")), ["Bücher.example.", "*.Other.example"])

    assert store.names == ("*.other.example", "xn--bcher-kva.example")


@pytest.mark.parametrize("name", ["", "*", "a b.example", "*.*.example", "a.*.example"])
def test_an_impossible_name_is_refused(authority: CertificateAuthority, name: str) -> None:
    """It is a mistake of whoever wrote it."""
    with pytest.raises(ValueError, match="is no host name"):
        CertificateStore().add(pair_of(authority.issue("a.example")), [name])


def test_a_second_certificate_for_a_name_takes_its_place(authority: CertificateAuthority) -> None:
    """The first one stays only for names that the second does not have."""
    store = CertificateStore()
    first = store.add(pair_of(authority.issue("a.example", "b.example")))
    second = store.add(pair_of(authority.issue("a.example")))

    assert store.find("a.example") is second
    assert store.find("b.example") is first
    third = store.add(pair_of(authority.issue("b.example")), default=True)
    assert list(store) == [second, third]
    store.add(pair_of(authority.issue("c.example")), default=True)
    assert store.find("b.example") is third


def test_removing_forgets_the_names(authority: CertificateAuthority) -> None:
    """What is gone cannot be removed or replaced again."""
    store = CertificateStore()
    one = store.add(pair_of(authority.issue("a.example")), default=True)
    two = store.add(pair_of(authority.issue("b.example")))

    store.remove(one)

    assert store.names == ("b.example",)
    assert store.default is None
    assert list(store) == [two]
    with pytest.raises(KeyError):
        store.remove(one)
    with pytest.raises(KeyError):
        store.replace(one, two.cert_key)


def test_replacing_renews_in_place(authority: CertificateAuthority) -> None:
    """The names follow the new certificate, the place and the default stay."""
    store = CertificateStore()
    place = store.add(pair_of(authority.issue("a.example", "b.example")), default=True)
    renewed = pair_of(authority.issue("b.example", "c.example"))

    store.replace(place, renewed)

    assert store.names == ("b.example", "c.example")
    assert store.find("c.example") is store.default is place
    assert place.cert_key is renewed


def test_what_is_not_valid_now_is_refused(authority: CertificateAuthority) -> None:
    """Neither added nor taken for a renewal: clients would accept nothing."""
    store = CertificateStore()
    good = pair_of(authority.issue("a.example"))
    place = store.add(good)

    with pytest.raises(Error, match="expired on 20") as caught:
        store.replace(place, pair_of(authority.issue("a.example", expired=True)))
    assert caught.value.etype == TLS_CONFIG_ERROR
    with pytest.raises(Error, match="not valid before 20"):
        store.add(pair_of(authority.issue("a.example", not_yet_valid=True)))
    assert place.cert_key is good
    assert len(store) == 1


def test_the_client_gets_a_key_that_it_can_verify(authority: CertificateAuthority) -> None:
    """RSA is for those who know nothing cheaper; order of adding does not matter."""
    store = CertificateStore()
    old = store.add(issue_rsa(authority, "a.example"), default=True)
    new = store.add(pair_of(authority.issue("a.example")), default=True)
    rsa_only = hello(algorithms=(0x0804, 0x0401), versions=(0x0304,))
    both = hello(algorithms=(0x0804, 0x0403), versions=(0x0304,))
    rsa_suites = hello(algorithms=(0x0401, 0x0403), suites=(0xC02F,))
    both_suites = hello(algorithms=(0x0401, 0x0403), suites=(0xC02F, 0xC02B))

    assert store.find("a.example", rsa_only) is store.find(None, rsa_only) is old
    assert store.find("a.example", both) is store.find(None, both) is new
    assert store.find("a.example", rsa_suites) is old
    assert store.find("a.example", both_suites) is new
    assert store.find("a.example", hello(algorithms=())) is old
    # Who can verify nothing of it is left to OpenSSL, which tells why.
    assert store.find("a.example", hello(algorithms=(0x0807,))) is new
    assert len(store) == 2
    assert (old.kind, new.kind) == (KeyKind.RSA, KeyKind.EC)

    store.remove(new)
    assert store.find("a.example", both) is old


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (ed25519.Ed25519PrivateKey.generate(), KeyKind.ED25519),
        (ed448.Ed448PrivateKey.generate(), KeyKind.ED448),
    ],
)
def test_other_kinds_of_keys_are_known(
    key: ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey, kind: KeyKind
) -> None:
    """And come before RSA."""
    assert KeyKind.of(key) is kind
    assert KeyKind.EC.preference < kind.preference < KeyKind.RSA.preference


def test_files_that_cannot_be_used_are_named(
    authority: CertificateAuthority, tmp_path: Path
) -> None:
    """The message says which file, and what is wrong with it."""
    store = CertificateStore()
    good, other = authority.issue("a.example"), authority.issue("a.example")
    missing = tmp_path / "missing.pem"
    garbage = tmp_path / "garbage.pem"
    garbage.write_bytes(b"-----BEGIN CERTIFICATE-----\nnothing\n-----END CERTIFICATE-----\n")
    for cert_path, key_path, reason in (
        (missing, good.key_path, "No such file"),
        (good.cert_path, missing, "No such file"),
        (garbage, good.key_path, "unusable certificate or key"),
        (good.cert_path, garbage, "unusable certificate or key"),
        (good.cert_path, other.key_path, "does not belong to"),
        (authority.issue("x", expired=True).cert_path, good.key_path, "does not belong to"),
    ):
        with pytest.raises(Error, match=reason) as caught:
            store.add_files(cert_path, key_path)
        assert caught.value.etype == TLS_CONFIG_ERROR
        assert str(cert_path) in str(caught.value)
        assert str(key_path) in str(caught.value)
    assert len(store) == 0


def test_an_expired_file_is_named(authority: CertificateAuthority) -> None:
    """It is refused at the start, where somebody looks."""
    issued = authority.issue("a.example", expired=True)

    with pytest.raises(Error, match="expired on 20") as caught:
        CertificateStore().add_files(issued.cert_path, issued.key_path)

    assert str(issued.cert_path) in str(caught.value)
