"""Backends from the EndpointSlices of a Kubernetes service, followed with a watch.

Theory of operation. A list tells what there is at one version, a watch what has changed since. The
server ends a watch now and then; the next one goes on from the last version, which bookmarks keep
young even while nothing changes. A version that the server does not know any more (410) means to
list again. The version outlives broken connections, so that an API server that comes back is not
asked for everything by everybody.
"""

from __future__ import annotations

import asyncio
import os
import random
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlencode

from pingora_error import Error, ErrorSource
from pingora_load_balancing.discovery._endpoint_slices import (
    AddressType,
    Gone,
    KubernetesEndpoint,
    Lines,
    SliceTable,
    parse_page,
)
from pingora_load_balancing.discovery._http_client import HttpClient, off_the_loop
from pingora_load_balancing.discovery._http_response import refuse_status
from pingora_load_balancing.discovery.access import HttpAccess
from pingora_load_balancing.discovery.interfaces import DISCOVERY_ERROR, refuse
from pingora_load_balancing.discovery.source import Source

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection

    from pingora_load_balancing.discovery.interfaces import Discovered
    from pingora_load_balancing.discovery.source import SourceOptions

__all__ = ["AddressType", "KubernetesDiscovery", "KubernetesEndpoint"]

_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
_SERVICE_LABEL: Final = "kubernetes.io/service-name"
# Slices; 100 endpoints each are usual, and a page is parsed in one go.
_PAGE: Final = 50
_MAX_PAGES: Final = 10_000
# Watches end at different times, as those of client-go do; seconds.
_WATCH_TIME: Final = (300.0, 600.0)
# Between the end of a watch and the next, or a list: a server that ends them at once is not flooded.
_INTERVAL: Final = 0.5


class KubernetesDiscovery(Source):
    """The endpoints of a service, by their conditions.

    Ready endpoints get requests. Those that terminate but still serve stay in the set with a
    weight of 0, so that what is under way is not disturbed; they get requests again if no
    endpoint is ready. Others are left out. The metadata of each backend is a
    `KubernetesEndpoint`. The account needs ``list`` and ``watch`` of ``endpointslices``.

    Args:
        service: Name of the service.
        url: Of the API server.
        namespace: Its namespace.
        port: Name or number of the endpoints' port; None if they have only one.
        address_types: Which kinds of addresses count.
        access: The token, whom to trust, deadlines.
        options: Which answers are believed, and who hears of failures.

    Raises:
        ValueError: If a name is empty, or the URL is none.
    """

    def __init__(
        self,
        service: str,
        url: str,
        *,
        namespace: str = "default",
        port: str | int | None = None,
        address_types: Collection[AddressType] = ("IPv4", "IPv6"),
        access: HttpAccess | None = None,
        options: SourceOptions | None = None,
    ) -> None:
        super().__init__(interval=_INTERVAL, options=options)
        if not service or not namespace:
            msg = "the service and its namespace need names"
            raise ValueError(msg)
        self._name = f"{namespace}/{service}"
        self._port = port
        self._address_types = address_types
        self._client = HttpClient(url, HttpAccess() if access is None else access)
        self._path = (
            f"/apis/discovery.k8s.io/v1/namespaces/{quote(namespace, safe='')}/endpointslices"
        )
        self._selector = ("labelSelector", f"{_SERVICE_LABEL}={service}")
        # What the last watch has left behind; None to begin with a list.
        self._table: SliceTable | None = None

    @classmethod
    def in_cluster(
        cls,
        service: str,
        *,
        namespace: str | None = None,
        port: str | int | None = None,
        options: SourceOptions | None = None,
        account: str = _ACCOUNT,
    ) -> KubernetesDiscovery:
        """Ask the API server of the cluster that this process runs in, as its service account.

        Reads a file.

        Args:
            service: Name of the service.
            namespace: Its namespace; None for that of this pod.
            port: Name or number of the endpoints' port; None if they have only one.
            options: Which answers are believed, and who hears of failures.
            account: The folder with ``token``, ``ca.crt`` and ``namespace``.

        Returns:
            The source.

        Raises:
            Error: ``DISCOVERY_ERROR`` if this process does not run in a cluster.
        """
        host = os.environ.get("KUBERNETES_SERVICE_HOST", "")
        port_text = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        folder = Path(account)
        try:
            if namespace is None:
                namespace = (folder / "namespace").read_text(encoding="utf-8").strip()
            host = f"[{host}]" if ":" in host else host
            return cls(
                service,
                f"https://{host}:{port_text}",
                namespace=namespace,
                port=port,
                access=HttpAccess(token_file=str(folder / "token"), ca_file=str(folder / "ca.crt")),
                options=options,
            )
        except (OSError, ValueError) as error:
            msg = "this does not seem to be a pod of a Kubernetes cluster"
            raise Error(DISCOVERY_ERROR, msg, source=ErrorSource.INTERNAL, cause=error) from error

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name} at {self._client.url}>"

    async def close(self) -> None:
        """Close the connection that idles. Asking again makes another one."""
        await self._client.close()

    async def _ask(self) -> Discovered:
        return await self._merge(await self._list())

    async def _answers(self) -> AsyncGenerator[Discovered, None]:
        while True:
            if self._table is None:
                self._table = await self._list()
                yield await self._merge(self._table)
            async with aclosing(self._watch(self._table)) as changes:
                async for found in changes:
                    yield found
            await self.options.sleep(self._pause())

    # ---------------------------------------------------------------------- list

    async def _list(self) -> SliceTable:
        try:
            return await self._list_pages(_PAGE)
        except Gone:
            # Between two pages the list has grown too old.
            return await self._list_pages(None)

    async def _list_pages(self, limit: int | None) -> SliceTable:
        table = SliceTable(self._port, self._address_types, self.options.max_backends)
        parameters = [self._selector]
        if limit is not None:
            parameters.append(("limit", str(limit)))
        next_page = ""
        pages = 0
        while True:
            more = [("continue", next_page)] if next_page else []
            answer = await self._client.get(
                f"{self._path}?{urlencode(parameters + more)}", max_bytes=self.options.max_bytes
            )
            if answer.status == 410 and next_page:
                raise Gone
            if answer.status != 200:
                refuse_status(answer.status, repr(self))
            page = await off_the_loop(parse_page, answer.body)
            await asyncio.to_thread(table.add_page, page)
            next_page = page.next_page
            pages += 1
            if not next_page:
                return table
            if pages == _MAX_PAGES:
                refuse(f"{self!r}: a list of more than {_MAX_PAGES} pages")

    async def _merge(self, table: SliceTable) -> Discovered:
        merged = table.merged
        if merged is None:
            merged = table.merged = await asyncio.to_thread(table.merge)
        if merged.flaw:
            self._tolerate(Error.up(DISCOVERY_ERROR, merged.flaw))
        return merged.found

    # ---------------------------------------------------------------------- watch

    async def _watch(self, table: SliceTable) -> AsyncGenerator[Discovered, None]:
        """Follow one watch to its end, and keep the table in step.

        Yields:
            What there is: once when the watch stands, then after each change.
        """
        seconds = random.uniform(*_WATCH_TIME)  # noqa: S311  # no secret
        parameters = [
            self._selector,
            ("watch", "1"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", table.version),
            ("timeoutSeconds", str(int(seconds))),
        ]
        target = f"{self._path}?{urlencode(parameters)}"
        try:
            async with self._client.open(target, wait=seconds) as response:
                if response.status == 410:
                    self._table = None
                    return
                if response.status != 200:
                    refuse_status(response.status, repr(self))
                yield await self._merge(table)
                lines = Lines(self.options.max_bytes)
                while piece := await response.read():
                    if self._take_in(table, lines, piece):
                        yield await self._merge(table)
        except Gone:
            self._table = None

    def _take_in(self, table: SliceTable, lines: Lines, piece: bytes) -> bool:
        try:
            complete = lines.feed(piece)
            for line in complete:
                table.apply(line)
        except Error:
            # Half of it may have been taken in, and from the same version the same would come.
            self._table = None
            raise
        return bool(complete)
