"""What watches an idle connection leaves one alone that is in use."""

from __future__ import annotations

import pytest

from pingora_core.upstreams import HttpPeer
from tests.support.waiting import eventually
from tests.unit.pingora_core.connectors.rig import connector, origin

pytestmark = pytest.mark.usefixtures("no_leaks")


async def test_the_end_of_a_connection_in_use_is_its_users() -> None:
    """The pool is not told, and another connection to the same peer stays in it."""
    async with origin() as server, connector() as transport:
        peer = HttpPeer(server.address)
        key = peer.reuse_key()
        first, second = await transport.new_stream(peer), await transport.new_stream(peer)
        transport.release_stream(first, key, 60.0)
        transport.release_stream(second, key, 60.0)
        assert transport.reused_stream(peer) is second
        await eventually(lambda: len(server.writers) == 2)

        for writer in server.writers:
            writer.close()
        await eventually(lambda: second.at_eof and not transport.idle_count)

        assert first.is_closed
        assert not second.is_closed
        second.close()


async def test_an_idle_time_does_not_outlast_its_release() -> None:
    """A connection is in use beyond it, and is then kept for as long as there is room."""
    async with origin() as server, connector() as transport:
        peer = HttpPeer(server.address)
        key = peer.reuse_key()
        stream = await transport.new_stream(peer)
        transport.release_stream(stream, key, 0.02)
        assert transport.reused_stream(peer) is stream
        (watcher,) = transport._watchers.values()
        await eventually(lambda: not watcher.deadline.is_set)  # it has expired, without effect
        assert not stream.is_closed

        transport.release_stream(stream, key, 60.0)
        assert transport.reused_stream(peer) is stream
        transport.release_stream(stream, key, None)
        assert not watcher.deadline.is_set
        assert transport.idle_count == 1
