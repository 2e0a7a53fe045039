"""A real nginx as the origin and curl as the client: nobody here shares our reading of HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.support.nginx import Nginx, require_program
from tests.support.proxy import BareProxy, RigProxy, RunningProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_SITE = """
    keepalive_timeout 60s;
    keepalive_requests 1000000;
    client_max_body_size 64m;
    gzip on;
    gzip_types *;
    if_modified_since before;
    gzip_min_length 1;
    server {
        listen 127.0.0.1:$port$;
        root $directory$/www;
        location / { }
        location /status/ { return 204; }
        location /moved { return 301 http://elsewhere.example/; }
        location /upload { proxy_pass http://127.0.0.1:$sink$; }
        location /few { keepalive_requests 2; try_files /hello.txt =404; }
        location /small-body { client_max_body_size 1k; proxy_pass http://127.0.0.1:$sink$; }
    }
    server {
        listen 127.0.0.1:$sink$;
        location / { return 200 "length=$content_length$http_transfer_encoding method=$request_method"; }
    }
"""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What curl got.

    Attributes:
        code: Its exit code.
        status: Status of the last response.
        connections: Connections it made.
        body: What it wrote.
    """

    code: int
    status: int
    connections: int
    body: bytes


async def curl(*arguments: str, send: bytes | None = None) -> Fetched:
    """Run curl."""
    process = await asyncio.create_subprocess_exec(
        require_program("curl"),
        "--silent",
        "--max-time",
        "20",
        "--write-out",
        "%{stderr}%{json}\n",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate(send)
    reports = [json.loads(line) for line in err.splitlines() if line.startswith(b"{")]
    return Fetched(
        code=process.returncode or 0,
        status=reports[-1]["http_code"],
        connections=sum(report["num_connects"] for report in reports),
        body=out,
    )


@pytest.fixture
async def nginx(tmp_path: Path) -> AsyncIterator[Nginx]:
    """An nginx with some files."""
    site = tmp_path / "nginx" / "www"
    site.mkdir(parents=True)
    (site / "hello.txt").write_bytes(b"hello world\n")
    (site / "large.bin").write_bytes(bytes(range(256)) * 65536)
    async with Nginx(tmp_path / "nginx", _SITE, ports=("port", "sink")) as running:
        yield running


@pytest.fixture
async def url(nginx: Nginx) -> AsyncIterator[str]:
    """Where the proxy in front of nginx listens."""
    async with RunningProxy(RigProxy(nginx.address)) as proxy:
        yield f"http://{proxy.address}"


async def test_file(url: str) -> None:
    """A file comes through, and curl keeps its connection."""
    fetched = await curl(*[f"{url}/hello.txt"] * 3)

    assert (fetched.code, fetched.status, fetched.connections) == (0, 200, 1)
    assert fetched.body == b"hello world\n" * 3


async def test_large_file(url: str) -> None:
    """Sixteen mebibytes arrive unchanged, also without any optional callback."""
    fetched = await curl(f"{url}/large.bin")

    assert fetched.code == 0
    expected = hashlib.sha256(bytes(range(256)) * 65536).digest()
    assert hashlib.sha256(fetched.body).digest() == expected


async def test_large_file_without_callbacks(nginx: Nginx) -> None:
    """The same through the shortest path."""
    async with RunningProxy(BareProxy(nginx.address)) as proxy:
        fetched = await curl(f"http://{proxy.address}/large.bin")

    assert fetched.body == bytes(range(256)) * 65536


async def test_compressed_response(url: str) -> None:
    """What nginx compresses on the fly (chunked) decompresses to the original."""
    fetched = await curl("--compressed", "--dump-header", "-", f"{url}/hello.txt")

    head, _, body = fetched.body.partition(b"\r\n\r\n")
    assert b"content-encoding: gzip" in head.lower()
    assert body == b"hello world\n"


async def test_ranges_and_conditions_are_the_origins_business(url: str) -> None:
    """Range and conditional requests are answered by nginx through the proxy."""
    part = await curl("--range", "6-10", f"{url}/hello.txt")
    fresh = await curl(
        "--header", "If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT", f"{url}/hello.txt"
    )

    assert (part.status, part.body) == (206, b"world")
    assert (fresh.status, fresh.body) == (304, b"")


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("--head", "/hello.txt"), 200),
        (("/missing",), 404),
        (("/status/",), 204),
        (("/moved",), 301),
        (("--http1.0", "/hello.txt"), 200),
        (("--request-target", "http://other.example/hello.txt", "/"), 200),
        (("--header", "Host:", "/hello.txt"), 400),
        (
            (
                "--header",
                "Transfer-Encoding: chunked",
                "--header",
                "Content-Length: 4",
                "--data",
                "abcd",
                "/",
            ),
            400,
        ),
    ],
    ids=["head", "404", "204", "301", "1.0", "absolute", "no host", "te and cl"],
)
async def test_status(url: str, arguments: tuple[str, ...], status: int) -> None:
    """Answers of all kinds end where curl expects them to end."""
    *options, path = arguments
    fetched = await curl(*options, f"{url}{path}")

    assert (fetched.code, fetched.status) == (0, status)


@pytest.mark.parametrize(
    "options", [(), ("--header", "Expect: 100-continue")], ids=["plain", "expect"]
)
async def test_upload_with_length(url: str, options: tuple[str, ...]) -> None:
    """An upload of four mebibytes keeps its length; ``Expect`` costs no timeout."""
    fetched = await curl(*options, "--data-binary", "@-", f"{url}/upload", send=b"x" * (4 << 20))

    assert fetched.code == 0
    assert fetched.body == b"length=4194304 method=POST"


async def test_upload_chunked(url: str) -> None:
    """A chunked upload is understood by nginx."""
    fetched = await curl(
        "--header",
        "Transfer-Encoding: chunked",
        "--upload-file",
        "-",
        f"{url}/upload",
        send=b"y" * 300_000,
    )

    assert fetched.code == 0
    assert fetched.body == b"length=300000 method=PUT"


async def test_upload_refused_early(url: str) -> None:
    """A 413 that nginx gives before it has read the body reaches curl."""
    fetched = await curl("--data-binary", "@-", f"{url}/small-body", send=b"x" * (4 << 20))

    assert fetched.status == 413


async def test_upstream_connections_that_nginx_closes(nginx: Nginx, url: str) -> None:
    """nginx closes connections after two requests; no client ever notices."""
    fetched = await curl(*[f"{url}/few"] * 20)

    assert (fetched.code, fetched.connections) == (0, 1)
    assert fetched.body == b"hello world\n" * 20
    assert len(nginx.access_log) == 20


async def test_many_clients_at_once(nginx: Nginx, url: str) -> None:
    """Parallel clients share upstream connections and get their own answers."""
    fetched = await asyncio.gather(
        *(curl("--parallel", "--parallel-max", "8", *[f"{url}/hello.txt"] * 40) for _ in range(4))
    )

    assert [result.code for result in fetched] == [0] * 4
    assert all(result.body == b"hello world\n" * 40 for result in fetched)
    assert len(nginx.access_log) == 160
