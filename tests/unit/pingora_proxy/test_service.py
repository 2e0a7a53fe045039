"""What a proxy takes from the configuration, at its start and when that is loaded anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pingora_core.apps.http_app import HttpServerOptions
from pingora_core.conf import ServerConf
from pingora_proxy import ProxyHttp, http_proxy

if TYPE_CHECKING:
    from pingora_core.upstreams import HttpPeer
    from pingora_proxy import Session


class Minimal(ProxyHttp[None]):
    """Nothing but what must be there."""

    def new_ctx(self) -> None:
        return None

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        raise AssertionError


@pytest.mark.parametrize("given", [None, 7.0])
async def test_a_reload_changes_what_the_program_left_open(given: float | None) -> None:
    """Attempts, and the time for one more request at a stop unless the options name it."""
    options = HttpServerOptions(h2c=True, keepalive_min=given)
    conf = ServerConf(max_retries=3, keepalive_min_seconds=0.5)
    proxy = http_proxy(conf, Minimal(), server_options=options)
    before = (proxy.max_retries, proxy.server_options.idle_grace)
    await proxy.reload(ServerConf(max_retries=5, keepalive_min_seconds=0.25))
    after = (proxy.max_retries, proxy.server_options.idle_grace)
    await proxy.cleanup()

    assert before == (3, given or 0.5)
    assert after == (5, given or 0.25)
    assert proxy.server_options.h2c


def test_without_a_configuration_there_is_a_default() -> None:
    """A tenth of a second."""
    assert HttpServerOptions().idle_grace == 0.1
