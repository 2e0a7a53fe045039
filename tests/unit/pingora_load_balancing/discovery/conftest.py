"""These tests run on uvloop and on asyncio."""

from __future__ import annotations

import pytest

from tests.support.certificates import CertificateAuthority
from tests.support.loops import no_leaks, pytest_asyncio_loop_factories

__all__ = ["authority", "no_leaks", "pytest_asyncio_loop_factories"]


@pytest.fixture(scope="package")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("certificates"))
