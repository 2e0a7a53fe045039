"""These tests run on uvloop and on asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pingora_core.protocols.tls import CaBundle
from tests.support.certificates import CertificateAuthority
from tests.support.loops import no_leaks, pytest_asyncio_loop_factories

if TYPE_CHECKING:
    from tests.support.certificates import IssuedCertificate

__all__ = ["authority", "ca", "certificate", "no_leaks", "pytest_asyncio_loop_factories"]


@pytest.fixture(scope="package")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="package")
def ca(authority: CertificateAuthority) -> CaBundle:
    return CaBundle([authority.certificate])


@pytest.fixture(scope="package")
def certificate(authority: CertificateAuthority) -> IssuedCertificate:
    """For a name, and for the loopback address."""
    return authority.issue("one.test", "127.0.0.1")
