"""A proxy as it is written with FastAPI and httpx: the snippet of docs/how-to/migrate-fastapi-httpx.md."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse


class Answer(Protocol):
    """What is used of an ``httpx.Response``."""

    status_code: int
    headers: Mapping[str, str]

    def aiter_raw(self) -> AsyncIterator[bytes]: ...


class AsyncClient(Protocol):
    """What is used of an ``httpx.AsyncClient``."""

    def build_request(
        self, method: str, url: str, *, headers: dict[str, str], content: AsyncIterator[bytes]
    ) -> object: ...

    async def send(self, request: object, *, stream: bool) -> Answer: ...


SERVICES: dict[str, str] = {}


def make_app(client: AsyncClient) -> FastAPI:
    """Make a proxy that uses a client."""
    app = FastAPI()

    # --8<-- [start:proxy]
    @app.api_route("/{service}/{path:path}", methods=["GET", "POST", "PUT", "DELETE"])
    async def proxy(service: str, path: str, request: Request) -> StreamingResponse:
        url = f"http://{SERVICES[service]}/{path}"
        headers = {k: v for k, v in request.headers.items() if k not in ("host", "connection")}
        outgoing = client.build_request(
            request.method, url, headers=headers, content=request.stream()
        )
        upstream = await client.send(outgoing, stream=True)
        return StreamingResponse(upstream.aiter_raw(), upstream.status_code, upstream.headers)

    # --8<-- [end:proxy]
    return app
