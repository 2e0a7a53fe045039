"""After ten thousand requests of all kinds, aborts included, everything is back where it was."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

import pytest

from tests.support.leaks import LeakCheck, Snapshot
from tests.support.origin import Origin
from tests.support.origin_routes import rig
from tests.support.proxy import RigProxy, RunningProxy
from tests.support.wire import Truncated

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from pingora_error import Error
    from pingora_proxy import Session
    from tests.support.client import RawClient
    from tests.support.proxy import RigContext

_CLIENTS: Final = 16
_REQUESTS: Final = 10_000


@pytest.fixture(autouse=True)
def _no_log() -> Iterator[None]:
    """Without this, pytest keeps each record with its traceback, which would look like a leak."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


class _Forgetful(RigProxy):
    """Counts endings instead of keeping them, which would look like a leak."""

    ended_count = 0

    async def logging(self, session: Session, error: Error | None, ctx: RigContext) -> None:
        self.ended_count += 1


async def get(client: RawClient) -> bool:
    response = await client.request("GET", "/")
    assert (response.status, response.body) == (200, b"Hello World!\n")
    return True


async def post(client: RawClient) -> bool:
    response = await client.request("POST", "/echo", body=b"x" * 3000)
    assert response.body == b"x" * 3000
    return True


async def post_chunked(client: RawClient) -> bool:
    response = await client.request("POST", "/echo", chunks=[b"abc", b"d" * 5000])
    assert len(response.body) == 5003
    return True


async def close_delimited(client: RawClient) -> bool:
    response = await client.request("GET", "/close_delimited")
    assert response.body == b"until the end"
    return True


async def not_found(client: RawClient) -> bool:
    assert (await client.request("GET", "/nowhere")).status == 404
    return True


async def pipelined(client: RawClient) -> bool:
    await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
    for _ in range(3):
        assert (await client.read_response()).status == 200
    return True


async def malformed(client: RawClient) -> bool:
    await client.send(b"GET / HTTP/1.1\r\nHost : a\r\n\r\n")
    assert (await client.read_response()).status == 400
    return False


async def dead_upstream(client: RawClient) -> bool:
    response = await client.request("GET", "/abort_at", [("x-abort-at", "10")])
    assert response.status == 502
    return False


async def dying_upstream(client: RawClient) -> bool:
    with pytest.raises(Truncated):
        await client.request("GET", "/connection_die")
    return False


async def leave_before_the_response(client: RawClient) -> bool:
    await client.send_request("GET", "/download")
    client.reset()
    return False


async def leave_within_the_request(client: RawClient) -> bool:
    await client.send(b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc")
    client.half_close()
    return False


async def leave_within_the_head(client: RawClient) -> bool:
    await client.send(b"GET / HTTP/1.1\r\nHo")
    client.reset()
    return False


async def leave_within_the_response(client: RawClient) -> bool:
    await client.send_request("GET", "/download")
    await client.read_head()
    client.reset()
    return False


async def upgrade(client: RawClient) -> bool:
    await client.send(
        b"GET /upgrade_echo_body HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nping"
    )
    await client.read_head()
    assert await client.receive_exactly(4) == b"ping"
    client.half_close()
    return False


_COMMON = (get, post, post_chunked, get, close_delimited, not_found, get, pipelined)
_RARE = (
    malformed,
    dead_upstream,
    dying_upstream,
    leave_before_the_response,
    leave_within_the_request,
    leave_within_the_head,
    leave_within_the_response,
    upgrade,
)


async def _browse(proxy: RunningProxy[RigContext], requests: int, seed: int) -> None:
    """Send requests of all kinds, each client in an order of its own."""
    kinds: list[Callable[[RawClient], Awaitable[bool]]] = []
    for number in range(requests):
        turn = seed * 7 + number
        kinds.append(_RARE[turn // 10 % len(_RARE)] if turn % 10 == 0 else _COMMON[turn % 8])
    position = 0
    while position < len(kinds):
        async with await proxy.connect() as client:
            alive = True
            while alive and position < len(kinds):
                alive = await kinds[position](client)
                position += 1


async def _everybody(proxy: RunningProxy[RigContext], requests: int) -> None:
    share = requests // _CLIENTS
    await asyncio.gather(*(_browse(proxy, share, seed) for seed in range(_CLIENTS)))


async def test_nothing_is_left_behind() -> None:
    """Sockets, tasks and memory are where they were after the first thousand requests."""
    async with LeakCheck(), Origin(rig) as origin:
        app = _Forgetful(origin)
        async with RunningProxy(app) as proxy:
            await _everybody(proxy, _REQUESTS // 10)
            _forget(origin)
            before = Snapshot.take()
            for _ in range(9):
                await _everybody(proxy, _REQUESTS // 10)
                _forget(origin)
            after = Snapshot.take()

        assert app.ended_count >= _REQUESTS
        # The pool may hold some idle connections more, two sockets each in this process.
        assert after.sockets <= before.sockets + 4 * _CLIENTS
        assert after.tasks <= before.tasks + 4 * _CLIENTS
        assert after.memory - before.memory < 8 * 1024 * 1024


def _forget(origin: Origin) -> None:
    origin.requests.clear()
    origin.connections[:] = [connection for connection in origin.connections if connection.is_open]
