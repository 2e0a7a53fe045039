"""The service of the admin interface: where it listens, and what it needs to be safe there."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, final

from pingora_core.apps.http_app import HttpServerOptions
from pingora_core.apps.serve_http import HttpServer
from pingora_core.conf import CONFIG_ERROR
from pingora_core.listeners.admission import ConnectionLimits
from pingora_core.listeners.l4 import UdsServerAddress
from pingora_core.protocols.http.v1.limits import HeadLimits
from pingora_core.protocols.http.v1.server import Http1Options
from pingora_core.protocols.http.v2.options import Http2Options
from pingora_core.services import listening, service as base
from pingora_error import Error, ErrorSource
from pingora_proxy.admin.app import IO_TIMEOUT, MAX_BODY, AdminApp
from pingora_proxy.admin.guard import Guard, host_name, is_loopback_name
from pingora_proxy.admin.operations import Operations
from pingora_proxy.admin.siblings import Siblings

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Mapping

    from pingora_core.conf import ServerConf
    from pingora_core.listeners.l4 import ServerAddress
    from pingora_core.protocols.address import SocketAddress
    from pingora_proxy.admin.sources import (
        BackendSource,
        CacheSource,
        MetricsSource,
        ProxyView,
        ServerView,
    )
    from pingora_proxy.admin.token import AdminToken

__all__ = ["DEFAULT_ADDRESS", "AdminService"]

_logger = logging.getLogger(__name__)

DEFAULT_ADDRESS: Final = "127.0.0.1:6190"
"""Where the admin interface listens if nothing else is said."""

_OWNER_ONLY: Final = 0o600
_OTHERS: Final = 0o007
# What is spent on clients at most, whoever they are: the data plane shares the process.
_MAX_CONNECTIONS: Final = 256
_MAX_PER_ADDRESS: Final = 64
_OPTIONS: Final = HttpServerOptions(
    keepalive_request_limit=10_000,
    http1=Http1Options(
        limits=HeadLimits(
            max_head_size=16384, max_fields=100, max_target_size=8192, max_field_size=8192
        ),
        header_timeout=IO_TIMEOUT,
        # More than the longest period of the page.
        keepalive_timeout=75.0,
        max_drain_size=MAX_BODY,
    ),
    http2=Http2Options(
        max_concurrent_streams=16,
        max_header_list_size=16384,
        max_header_block=16384,
        extended_connect=False,
        preface_timeout=IO_TIMEOUT,
        idle_timeout=75.0,
        write_timeout=IO_TIMEOUT,
    ),
)


@final
class AdminService(base.Service):
    """Health, configuration, backends, caches, log level and a live page, on a listener of its own.

    There is none unless the program adds it to its server. Without a token it listens on loopback
    addresses and Unix sockets only. In a server with several workers every one of them has it:
    what one is told it tells the others.

    Args:
        server: The server.
        token: What clients must send as ``Authorization: Bearer``; None asks for nothing.
        listen: Where to listen, and ``unix:/path`` for a Unix socket that only the owner can use;
            None for only what is added with ``add_tcp``, ``add_uds`` and ``add_tls``.
        metrics: Where the numbers are: ``WorkerMetrics`` for those of all workers, which begins to
            publish then, or the ``Registry`` of a single process.
        backends: Backends that are shown, and can be taken out, by a name for them.
        caches: Caches that are shown, and can be purged, by name.
        proxies: Proxies whose upstream connections are shown, by name.
        allowed_hosts: Names under which the interface is reached, beside ``localhost``; addresses
            are always allowed.
        ready_backends: Names of those of ``backends`` without which the process is not ready: each
            must have a backend that is.
        show_config: Parts of the application's own configuration that ``/config`` shows, such as
            ``limits`` or ``routes.web``; of the others it shows the names alone.

    Raises:
        ValueError: If ``ready_backends`` names what is not in ``backends``.

    Examples:
        >>> from pingora_core import Server
        >>> admin = AdminService(Server())
        >>> [address.key for address in admin.listen_addresses]
        ['127.0.0.1:6190']
    """

    notifies_ready = True

    def __init__(  # noqa: PLR0913 - a record of choices
        self,
        server: ServerView,
        *,
        token: AdminToken | None = None,
        listen: str | None = DEFAULT_ADDRESS,
        metrics: MetricsSource | None = None,
        backends: Mapping[str, BackendSource] | None = None,
        caches: Mapping[str, CacheSource] | None = None,
        proxies: Mapping[str, ProxyView] | None = None,
        allowed_hosts: Collection[str] = (),
        ready_backends: Collection[str] = (),
        show_config: Collection[str] = (),
    ) -> None:
        super().__init__("Admin")
        for names in (allowed_hosts, ready_backends, show_config):
            if isinstance(names, str):
                raise TypeError(f"several are wanted, not the text {names!r}")
        if unknown := sorted(set(ready_backends) - set(backends or ())):
            raise ValueError(f"ready_backends: {unknown[0]!r} is not in backends")
        self._token = token
        # Modes of the files of Unix sockets, by path.
        self._modes: dict[str, int] = {}
        self._operations = Operations(
            server,
            metrics=metrics,
            backends=backends or {},
            caches=caches or {},
            proxies=proxies or {},
            ready_backends=ready_backends,
            show_config=show_config,
        )
        self._guard = Guard(None, allowed_hosts)
        self._siblings = Siblings(self._answer)
        self._app = AdminApp(self._operations, self._guard, self._siblings)
        server_app = HttpServer(self._app, server_options=_OPTIONS)
        self._listening = listening.Service(self.name, server_app)
        self._limits = ConnectionLimits(
            max_connections=_MAX_CONNECTIONS,
            max_per_address=_MAX_PER_ADDRESS,
            at_limit="refuse",
        )
        self._listening.set_connection_limits(self._limits)
        if listen is not None and listen.startswith("unix:"):
            self.add_uds(listen.removeprefix("unix:"))
        elif listen is not None:
            self.add_tcp(listen)

    @property
    def listen_addresses(self) -> tuple[ServerAddress, ...]:
        """Where the service is to listen."""
        return self._listening.listen_addresses

    @property
    def addresses(self) -> tuple[SocketAddress, ...]:
        """Where it listens, with the ports that the kernel chose; empty before it does."""
        return self._listening.addresses

    @property
    def refused(self) -> int:
        """How many requests were refused for their host, their site or their token."""
        return self._guard.refused

    def add_tcp(self, address: str) -> None:
        """Listen on a TCP address; other than loopback only with a token.

        Args:
            address: ``127.0.0.1:6190``, ``[::1]:6190`` or ``name:6190``.
        """
        self._listening.add_tcp(address)

    def add_uds(self, path: str, permissions: int = _OWNER_ONLY) -> None:
        """Listen on a Unix socket.

        Args:
            path: Where its file is made.
            permissions: Mode of the file; without a token it must not let everybody in.
        """
        self._modes[path] = permissions
        self._listening.add_uds(path, permissions)

    def add_tls(
        self,
        address: str,
        cert_path: str | os.PathLike[str],
        key_path: str | os.PathLike[str],
    ) -> None:
        """Listen with TLS; on other addresses than loopback only with a token.

        Args:
            address: As for `add_tcp`.
            cert_path: PEM file with the certificate, then each its issuer.
            key_path: PEM file with its private key.
        """
        self._listening.add_tls(address, cert_path, key_path)

    # ----------------------------------------------------------------------------- run

    def check(self) -> None:
        """Refuse a token that is none, and addresses that need one.

        Raises:
            Error: ``CONFIG_ERROR`` with what is wrong and what is allowed.
        """
        self._listening.check()
        try:
            self._guard.set_token(None if self._token is None else self._token.read())
        except ValueError as error:
            raise self._wrong(str(error)) from error
        if not self._guard.asks_for_token:
            if open_for_all := [path for path, mode in self._modes.items() if mode & _OTHERS]:
                raise self._wrong(
                    f"permissions: {', '.join(open_for_all)} is for everybody on the machine without "
                    "a token, allowed: a mode without bits for others; any with a token"
                )
            exposed = [each.key for each in self.listen_addresses if not _is_local(each)]
            if exposed:
                raise self._wrong(
                    f"address: got {', '.join(exposed)} without a token, allowed: loopback "
                    "addresses and Unix sockets; others with a token"
                )

    def _wrong(self, problem: str) -> Error:
        return Error(CONFIG_ERROR, f"service {self.name!r}: {problem}", source=ErrorSource.INTERNAL)

    async def start_service(self, context: base.ServiceContext) -> None:
        """Answer requests until the shutdown.

        Args:
            context: What to run with.
        """
        self._operations.begin()
        if context.conf.is_supervised:
            await self._siblings.start()
            await self._app.begin()
        try:
            await self._listening.start_service(context)
        finally:
            self._operations.end()
            await self._siblings.stop()

    async def reload(self, conf: ServerConf) -> None:
        """Read the token again, and certificates.

        Args:
            conf: The new configuration.

        Raises:
            Error: ``CONFIG_ERROR`` if there is something wrong; then the old ones stay in use.
        """
        if self._token is not None:
            try:
                self._guard.set_token(self._token.read())
            except ValueError as error:
                raise self._wrong(str(error)) from error
        await self._listening.reload(conf)
        self._operations.reloaded(conf)

    async def _answer(self, question: dict[str, object]) -> dict[str, object]:
        return await self._app.answer(question)


def _is_local(address: ServerAddress) -> bool:
    if isinstance(address, UdsServerAddress):
        return True
    # Of names below localhost a resolver may think otherwise than a browser.
    name = host_name(address.key)
    return is_loopback_name(name) and not name.endswith(".localhost")
