"""These tests run on uvloop and on asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.certificates import CertificateAuthority
from tests.support.loops import no_leaks, pytest_asyncio_loop_factories

if TYPE_CHECKING:
    from tests.support.certificates import IssuedCertificate

__all__ = ["authority", "no_leaks", "pytest_asyncio_loop_factories", "server_certificate"]


@pytest.fixture(scope="package")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="package")
def server_certificate(authority: CertificateAuthority) -> IssuedCertificate:
    return authority.issue("server.example", organization="Server Org")
