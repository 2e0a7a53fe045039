from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from pingora_core.protocols.tls import ReferenceIdentity, matches_dns_name
from pingora_core.protocols.tls.verify import as_ip_address, replace_leftmost_underscore

if TYPE_CHECKING:
    from tests.support.certificates import CertificateAuthority

LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
NAMES = st.lists(LABELS, min_size=2, max_size=4).map(".".join)


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("example.com", "example.com"),
        ("EXAMPLE.com", "example.com"),
        ("*.example.com", "www.example.com"),
        ("*.Example.com", "www.example.com"),
        ("*.b.example.com", "a.b.example.com"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
    ],
)
def test_names_that_match(pattern: str, name: str) -> None:
    """Case does not matter; a wildcard stands for one label."""
    assert matches_dns_name(pattern, name)


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("example.com", "www.example.com"),
        ("www.example.com", "example.com"),
        ("*.example.com", "example.com"),
        ("*.example.com", ".example.com"),
        ("*.example.com", "a.b.example.com"),
        ("*.com", "example.com"),
        ("*", "localhost"),
        ("*.", "a."),
        ("w*.example.com", "www.example.com"),
        ("*w.example.com", "www.example.com"),
        ("www.*.com", "www.example.com"),
        ("*.*.com", "www.example.com"),
        ("**.example.com", "www.example.com"),
        ("*.*", "*.*"),
        ("*example.com", "*example.com"),
        ("", "example.com"),
        ("example.com.evil.org", "example.com"),
        ("example.com\x00.evil.org", "example.com"),
    ],
)
def test_names_that_do_not_match(pattern: str, name: str) -> None:
    """No partial, inner or multi-label wildcards, none for a top-level domain (RFC 9525)."""
    assert not matches_dns_name(pattern, name)


@given(NAMES, LABELS)
def test_a_wildcard_covers_its_parent_and_one_label(parent: str, label: str) -> None:
    """And neither the parent itself nor deeper names."""
    pattern = f"*.{parent}"

    assert matches_dns_name(parent, parent)
    assert matches_dns_name(pattern, f"{label}.{parent}")
    assert not matches_dns_name(pattern, parent)
    assert not matches_dns_name(pattern, f"{label}.{label}.{parent}")


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("d_g.openrusty.org", "d-g.openrusty.org"),
        ("a_b_c.openrusty.org", "a-b-c.openrusty.org"),
        ("a_b.c_d.org", "a-b.c_d.org"),
        ("dg.openrusty.org", None),
        ("dg.open_rusty.org", None),
        ("open_rusty.org", None),
        ("open_rusty", None),
        ("", None),
    ],
)
def test_the_underscore_rule(name: str, other: str | None) -> None:
    """Only the leftmost label of a sub-domain is spelt with hyphens."""
    assert replace_leftmost_underscore(name) == other


@pytest.mark.parametrize(
    ("names", "accepted"),
    [
        (("www.example.com",), True),
        (("WWW.Example.COM.",), True),
        (("other.org",), True),
        (("example.com",), False),
        (("192.0.2.1",), True),
        (("192.0.2.2",), False),
        (("2001:db8::1",), True),
        (("2001:0db8:0:0::1",), True),
        (("nobody.example", "other.org"), True),
        (("nobody.example", ""), False),
        (("a_b.example.com",), True),
    ],
)
def test_certificates_against_identities(
    authority: CertificateAuthority, names: tuple[str, ...], accepted: bool
) -> None:
    """One match among the alternative names is enough; names and addresses do not mix."""
    issued = authority.issue("*.example.com", "other.org", "192.0.2.1", "2001:db8::1")

    assert ReferenceIdentity.of(*names).matches(issued.certificate) is accepted


def test_the_common_name_does_not_count(authority: CertificateAuthority) -> None:
    """RFC 9525 section 2: only subject alternative names are looked at."""
    without = authority.issue(common_name="example.com")
    beside = authority.issue("other.org", common_name="example.com")

    assert not ReferenceIdentity.of("example.com").matches(without.certificate)
    assert not ReferenceIdentity.of("example.com").matches(beside.certificate)


def test_an_address_as_a_dns_name_does_not_count(authority: CertificateAuthority) -> None:
    """An IP address is matched with addresses only, never with text that looks like one."""
    identity = ReferenceIdentity.of("192.0.2.1")
    issued = authority.issue("*.0.2.1", "www.192.0.2.1")

    assert not identity.dns_names
    assert not identity.matches(issued.certificate)


def test_an_empty_identity_matches_nobody(authority: CertificateAuthority) -> None:
    """Having nothing to verify is not the same as not verifying."""
    identity = ReferenceIdentity.of("", "")

    assert identity.is_empty
    assert str(identity) == "nobody"
    assert not identity.matches(authority.issue("example.com").certificate)


def test_identities_read_well() -> None:
    """For error messages."""
    assert str(ReferenceIdentity.of("b.example", "192.0.2.1")) == "192.0.2.1 or b.example"


def test_ip_addresses_are_told_from_names() -> None:
    """Text that is no address is None."""
    assert str(as_ip_address("::1")) == "::1"
    assert as_ip_address("example.com") is None
    assert as_ip_address("192.0.2") is None
