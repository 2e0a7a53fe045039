"""The HTTP endpoint: what is asked, what is believed, and whom is trusted."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING

import msgspec
import pytest

from pingora_error import Error
from pingora_load_balancing import Backend
from pingora_load_balancing.discovery import (
    Discovered,
    HttpAccess,
    HttpDiscovery,
    SourceOptions,
)
from tests.support.certificates import CertificateAuthority
from tests.support.discovery_watch import FakeTime, addresses, watching
from tests.support.origin import Origin
from tests.support.origin_steps import close, hang, reply, reset, send, sequence

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.origin import Exchange, Handler

pytestmark = pytest.mark.usefixtures("no_leaks")

LIST = b'["10.0.0.1:80", {"address": "10.0.0.2:80", "weight": 3, "later": true}]'


def url(origin: Origin, path: str = "/backends") -> str:
    return f"{'http' if origin.tls is None else 'https'}://{origin.address}{path}"


async def test_list() -> None:
    """The answer has the form of the file; keys that are not known yet do no harm."""
    async with (
        Origin(reply(body=LIST)) as origin,
        HttpDiscovery(url(origin, "/v1/backends?site=a")) as source,
    ):
        found = await source.discover()
        request = origin.requests[0]

    assert found.backends == (Backend("10.0.0.1:80"), Backend("10.0.0.2:80", 3))
    assert (request.method, request.target) == ("GET", "/v1/backends?site=a")
    assert request.get("host") == origin.address
    assert request.get("accept") == "application/json"


async def test_what_has_not_changed_is_not_sent_again() -> None:
    """The tag of the last good answer is shown, and a 304 stands for that answer."""

    async def handler(exchange: Exchange) -> None:
        if exchange.request.get("if-none-match") == '"1"':
            await exchange.reply("304 Not Modified", fields=[("ETag", '"1"')], length=None)
        else:
            await exchange.reply(body=LIST, fields=[("ETag", '"1"')])

    async with Origin(handler) as origin, HttpDiscovery(url(origin)) as source:
        first = await source.discover()
        again = await source.discover()

        assert again is first
        assert [request.get("if-none-match") for request in origin.requests] == [None, '"1"']
        assert len(origin.connections) == 1


async def test_a_304_out_of_nowhere() -> None:
    """Nothing was shown, so nothing can be unchanged."""
    async with Origin(reply("304 Not Modified")) as origin, HttpDiscovery(url(origin)) as source:
        with pytest.raises(Error, match="the server answers 304"):
            await source.discover()


async def test_watch() -> None:
    """Watched, it is asked at intervals, and only changes are told."""
    time = FakeTime()
    options = SourceOptions(clock=time, sleep=time.sleep)
    async with (
        Origin(reply(body=b'["10.0.0.1:80"]')) as origin,
        HttpDiscovery(url(origin), interval=10.0, options=options) as source,
    ):
        began = time()
        async with watching(source) as watch:
            await origin.requests_arrived(4)
            assert time() - began >= 27.0
            origin.handler = reply(body=b'["10.0.0.2:80"]')
            await watch.shows(["10.0.0.2:80"])

    assert len(watch.answers) == 2


@pytest.mark.parametrize("status", ["301 Moved", "404 Not Found", "500 Oops", "204 No Content"])
async def test_other_statuses(status: str) -> None:
    """Only a 200 is an answer; redirects are not followed."""
    handler = reply(status, fields=[("Location", "http://127.0.0.1:1/")])
    async with Origin(handler) as origin, HttpDiscovery(url(origin)) as source:
        with pytest.raises(Error, match=f"the server answers {status[:3]}"):
            await source.discover()


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (reply(body=b"<html>"), "not a list of backends"),
        (reply(body=b'["10.0.0.1"]'), r"backends\[0\]: address '10.0.0.1' has no port"),
        (reply(body=b'["' + b"1" * 2000), "is longer than 1000 bytes"),
        (reply("500 Oops", b"x" * 100_000), "is longer than 65536 bytes"),
        (reply(body=LIST, fields=[("Content-Encoding", "gzip")]), r"is encoded \(gzip\)"),
        (
            sequence(send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[]"), close),
            "closed within the body",
        ),
        (sequence(send(b"SSH-2.0-OpenSSH_9.2\r\n"), close), "closed before the response"),
        (reset, "Connection reset|ConnectionClosed|ReadError"),
        (hang, "not done within 0.3 s"),
        (sequence(send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n["), hang), "not done within"),
    ],
)
async def test_garbage(handler: Handler, reason: str) -> None:
    """Whatever comes, or does not, is a failure within the deadline."""
    async with (
        Origin(handler) as origin,
        HttpDiscovery(
            url(origin),
            access=HttpAccess(timeout=0.3),
            options=SourceOptions(max_bytes=1000),
        ) as source,
    ):
        with pytest.raises(Error, match=reason) as failure:
            await source.discover()

    assert source.last_error is failure.value


async def test_an_answer_that_drips() -> None:
    """The deadline is for all of an answer, so a byte now and then does not prolong it."""

    async def drip(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not exchange.connection.writer.transport.is_closing():
            await exchange.send(b" ")
            await asyncio.sleep(0.01)

    async with (
        Origin(drip) as origin,
        HttpDiscovery(url(origin), access=HttpAccess(timeout=0.2)) as source,
    ):
        with pytest.raises(Error, match=r"ReadTimedout .* not done within 0\.2 s"):
            await source.discover()


async def test_nobody_there(authority: CertificateAuthority) -> None:
    """A refused connection is a failure that names the endpoint, without its query."""
    async with Origin(reply()) as origin:
        address = url(origin, "/list?key=hidden")
    async with HttpDiscovery(address) as source:
        with pytest.raises(Error, match=r"ConnectRefused context: GET .*/list cause") as failure:
            await source.discover()

    assert "hidden" not in str(failure.value) + repr(source)


async def test_tls(authority: CertificateAuthority) -> None:
    """The certificate must be below the authorities given, and for the host of the URL."""
    trusting = HttpAccess(ca_file=str(authority.cert_path))
    certificate = authority.issue("127.0.0.1")
    stranger = authority.issue("other.test")
    async with (
        Origin(reply(body=LIST), tls=certificate.server_context()) as origin,
        Origin(reply(body=LIST), tls=stranger.server_context()) as other,
    ):
        async with HttpDiscovery(url(origin), access=trusting) as source:
            assert len((await source.discover()).backends) == 2
        async with HttpDiscovery(url(origin)) as source:
            with pytest.raises(Error, match="InvalidCert"):
                await source.discover()
        async with HttpDiscovery(url(other), access=trusting) as source:
            with pytest.raises(Error, match="InvalidCert"):
                await source.discover()
        named = HttpAccess(ca_file=str(authority.cert_path), server_name="other.test")
        async with HttpDiscovery(url(other), access=named) as source:
            assert len((await source.discover()).backends) == 2


async def test_an_authority_that_is_replaced(
    authority: CertificateAuthority, tmp_path: Path
) -> None:
    """A new CA file is used for the next question, without connections of the old trust."""
    second = CertificateAuthority(tmp_path)
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(second.cert_pem)
    certificate = authority.issue("127.0.0.1")
    async with (
        Origin(reply(body=LIST), tls=certificate.server_context()) as origin,
        HttpDiscovery(url(origin), access=HttpAccess(ca_file=str(ca_file))) as source,
    ):
        with pytest.raises(Error, match="InvalidCert"):
            await source.discover()
        ca_file.write_bytes(authority.cert_pem)
        assert len((await source.discover()).backends) == 2
        ca_file.write_bytes(second.cert_pem)
        with pytest.raises(Error, match="InvalidCert"):
            await source.discover()
        ca_file.unlink()
        with pytest.raises(Error, match="FileReadError"):
            await source.discover()


async def test_secrets(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Tokens and fields are sent and never shown; a token file is followed."""
    caplog.set_level(logging.DEBUG)
    token_file = tmp_path / "token"
    token_file.write_text(" s3cret-1 \n")
    access = HttpAccess(token_file=str(token_file), headers=(("X-Key", "s3cret-2"),))
    async with Origin(reply("401 No")) as origin:
        async with HttpDiscovery(url(origin), access=access) as source:
            told = ""
            for text in ("s3cret-1", "s3cret-3"):
                token_file.write_text(text)
                with pytest.raises(Error, match="401, the token is not accepted") as failure:
                    await source.discover()
                told += str(failure.value)
            token_file.write_bytes(b"s3cret\nInjected: 1")
            with pytest.raises(Error, match="holds no token") as unusable:
                await source.discover()
        shown = [request.get("authorization") for request in origin.requests]
        assert shown == ["Bearer s3cret-1", "Bearer s3cret-3"]
        assert origin.requests[0].get("x-key") == "s3cret-2"

    told += caplog.text + str(unusable.value) + repr(source) + repr(access)
    assert "s3cret" not in told


@pytest.mark.parametrize(
    "bad",
    [
        "example.com/list",
        "ftp://example.com/",
        "https://user:s3cret@example.com/",
        "http:///list",
        "http://example.com:99999/",
        "unix:",
    ],
)
def test_bad_urls(bad: str) -> None:
    """What is no URL of ours is refused, and not repeated in full: it may hold a secret."""
    with pytest.raises(ValueError, match=r"URL|port|address|Port") as error:
        HttpDiscovery(bad)

    assert "s3cret" not in str(error.value)


async def test_unix_socket(tmp_path: Path) -> None:
    """An endpoint may listen on a Unix socket."""
    async with (
        Origin(reply(body=LIST), uds=tmp_path / "s") as origin,
        HttpDiscovery(f"unix:{tmp_path / 's'}:/v1/list?a=b") as source,
    ):
        assert len((await source.discover()).backends) == 2
        assert origin.requests[0].target == "/v1/list?a=b"
        assert origin.requests[0].get("host") == "localhost"
        assert repr(source) == f"<HttpDiscovery unix:{tmp_path / 's'}:/v1/list>"


async def test_a_connection_that_has_died_is_no_failure() -> None:
    """A kept connection that the server closes meanwhile is replaced."""
    async with Origin(reply(body=LIST)) as origin, HttpDiscovery(url(origin)) as source:
        await source.discover()
        # Closed on the next request, as by a server whose idle time is over at that moment.
        origin.handler = close
        origin.connections[0].close()
        origin.handler = reply(body=LIST)

        assert len((await source.discover()).backends) == 2
        assert len(origin.connections) == 2


class Place(msgspec.Struct, frozen=True):
    zone: str


async def test_typed_metadata() -> None:
    """Metadata gets the type asked for, or the whole answer is refused."""
    body = json.dumps([{"address": "10.0.0.1:80", "metadata": {"zone": "a"}}]).encode()
    async with (
        Origin(reply(body=body)) as origin,
        HttpDiscovery(url(origin), metadata_type=Place) as source,
    ):
        (backend,) = (await source.discover()).backends
        assert backend.metadata_as(Place) == Place("a")

        origin.handler = reply(body=body.replace(b"zone", b"zoo"))
        with pytest.raises(Error, match=r"backends\[0\]: .*zone"):
            await source.discover()


async def test_another_form_of_answer() -> None:
    """A parser of one's own reads it; what it raises is a failure."""

    def parse(body: bytes) -> Discovered:
        return Discovered([Backend(line) for line in body.decode().splitlines()])

    async with (
        Origin(reply(body=b"10.0.0.1:80\n10.0.0.2:80\n")) as origin,
        HttpDiscovery(url(origin), parse=parse) as source,
    ):
        assert addresses(await source.discover()) == ["10.0.0.1:80", "10.0.0.2:80"]
        origin.handler = reply(body=b"\xff")
        with pytest.raises(Error, match="UnicodeDecodeError"):
            await source.discover()


async def test_a_hundred_thousand_backends() -> None:
    """A large answer is read without holding the event loop up for long."""
    body = json.dumps([f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}:80" for n in range(100_000)])
    async with Origin(reply(body=body.encode())) as origin, HttpDiscovery(url(origin)) as source:
        found = await source.discover()

    assert len(found.backends) == 100_000


def test_misuse() -> None:
    """What cannot be meant is refused at once."""
    with pytest.raises(ValueError, match="a token is given as well as a file"):
        HttpAccess(token="a", token_file="b")
    with pytest.raises(ValueError, match="timeout must be more than 0"):
        HttpAccess(timeout=0)
    with pytest.raises(ValueError, match="interval must be more than 0"):
        HttpDiscovery("http://a/", interval=0)
