"""The origins of the demonstration."""

from __future__ import annotations

import http.client
import ssl
from typing import TYPE_CHECKING

import pytest

from demo.origin import Origin
from tests.support.certificates import CertificateAuthority

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("host", "status"), [("one.test", 200), ("other.test", 403)])
def test_an_origin_answers_only_to_its_name(tmp_path: Path, host: str, status: int) -> None:
    """It names itself either way, and refuses a wrong Host."""
    authority = CertificateAuthority(tmp_path)
    origin = Origin("north", "one.test", authority.issue("127.0.0.1"))
    try:
        context = ssl.create_default_context(cafile=str(authority.cert_path))
        connection = http.client.HTTPSConnection(origin.address, timeout=10, context=context)
        connection.request("GET", "/x", headers={"Host": host})
        response = connection.getresponse()

        assert response.status == status
        assert response.getheader("X-Origin") == "north"
        assert response.read().startswith(b"north: ")
        assert origin.requests == 1
        connection.close()
    finally:
        origin.stop()
