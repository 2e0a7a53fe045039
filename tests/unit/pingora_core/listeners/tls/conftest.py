"""An authority of the tests in this folder."""

from __future__ import annotations

import pytest

from tests.support.certificates import CertificateAuthority


@pytest.fixture
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("authority"))
