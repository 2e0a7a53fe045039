"""h2spec against the proxy: its cases pass, but for those that the list beside this names."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from conformance import h2spec
from conformance.rig import PATH, Rig
from devtool.golang import is_h2spec_current
from tests.support.nginx import require_program

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conformance.rig import Proxy

_SECONDS = 40.0


def _require_h2spec() -> None:
    if is_h2spec_current():
        return
    message = "h2spec is not installed; ./tools/dev deps builds it where Go is"
    if os.environ.get("CI") == "true" and shutil.which("go") is not None:
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    """The proxy with default settings, before an origin that reads requests to their end."""
    _require_h2spec()
    require_program("nginx")
    with Rig() as rig, rig.proxy() as running:
        yield running


@pytest.mark.parametrize("tls", [False, True], ids=["in clear", "over TLS"])
def test_exactly_the_listed_cases_fail(proxy: Proxy, *, tls: bool) -> None:
    """At most two strict cases fail, each is on the list, and nothing on the list passes."""
    report = h2spec.run(proxy.tls if tls else proxy.plain, path=PATH, tls=tls, seconds=_SECONDS)

    known = h2spec.listed(h2spec.LIST.read_text(), tls=tls, engine="h2")
    assert {failure.case: failure.text for failure in report.failures}.keys() == known
    assert len(report.failures) <= h2spec.MOST_FAILURES
    assert report.total >= 146
