"""Connecting: a TCP or Unix socket, or what the user has put in its place."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING, Final, TypeVar

from pingora_core.protocols.address import HostAddress, UnixAddress
from pingora_core.protocols.l4 import sockopt
from pingora_core.protocols.l4.stream import L4Stream
from pingora_error import Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from pingora_core.connectors.dns import Resolver
    from pingora_core.protocols.address import InetAddress
    from pingora_core.protocols.interfaces import Stream
    from pingora_core.protocols.l4.sockopt import BindTo
    from pingora_core.upstreams.hooks import Tracer
    from pingora_core.upstreams.options import PeerOptions
    from pingora_core.upstreams.peer import PeerAddress

__all__ = ["connect", "connect_error"]

T = TypeVar("T")

# How many addresses of a name are tried; the time is shared out among them.
_MAX_ADDRESSES: Final = 8
# How often a Unix socket whose backlog is full is tried again, seconds.
_BACKLOG_RETRY: Final = 0.01


class _TracedStream(L4Stream):
    """A stream whose end a tracer is told."""

    __slots__ = ("_tracer",)

    def __init__(self, loop: asyncio.AbstractEventLoop, tracer: Tracer) -> None:
        super().__init__(loop)
        self._tracer = tracer

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._tracer.on_disconnected()


async def connect(
    address: PeerAddress,
    options: PeerOptions,
    *,
    resolver: Resolver,
    choose_bind: Callable[[InetAddress], BindTo | None],
) -> Stream:
    """Connect to an address within the ``connection_timeout`` of the options.

    The addresses of a name are tried in order; each gets an equal share of the time that is left,
    so that one that does not answer cannot use it up.

    Args:
        address: Where to.
        options: How.
        resolver: Turns host names into addresses.
        choose_bind: Says where a connection leaves from if the options do not.

    Returns:
        The connected stream.

    Raises:
        Error: From upstream: ``CONNECT_TIMEDOUT``, ``CONNECT_REFUSED``, ``CONNECT_NO_ROUTE`` or
            ``CONNECT_ERROR``. ``INTERNAL_ERROR`` if this machine cannot do what was asked for.
    """
    if options.custom_l4 is not None:
        stream = await _limited(
            _connect_custom(address, options), options.connection_timeout, address
        )
        if options.tracer is not None:
            options.tracer.on_connected()
        return stream
    if not isinstance(address, HostAddress):
        return await _limited(
            _connect_one(address, options, choose_bind), options.connection_timeout, address
        )
    loop = asyncio.get_running_loop()
    timeout = options.connection_timeout
    expiry = None if timeout is None else loop.time() + timeout
    resolved = await _limited(resolver.resolve(address.host, address.port), timeout, address)
    resolved = _usable(resolved, options)[:_MAX_ADDRESSES]
    if not resolved:
        raise Error(
            ErrorType.CONNECT_ERROR, f"{address} has no address", source=ErrorSource.UPSTREAM
        )
    failures: list[Error] = []
    for index, candidate in enumerate(resolved):
        share = None if expiry is None else (expiry - loop.time()) / (len(resolved) - index)
        try:
            return await _limited(_connect_one(candidate, options, choose_bind), share, candidate)
        except Error as error:
            failures.append(error)
    # The first one names the address that should have worked.
    raise failures[0].more_context(f"{address}, {len(resolved)} addresses tried")


def _usable(resolved: list[InetAddress], options: PeerOptions) -> list[InetAddress]:
    """Leave out what cannot be reached from the source address that the options ask for.

    Args:
        resolved: The addresses of a name.
        options: Of the peer.

    Returns:
        Those of the same family.
    """
    source = None if options.bind_to is None else options.bind_to.addr
    if source is None:
        return resolved
    return [address for address in resolved if address.is_ipv6 == source.is_ipv6]


async def _limited(
    work: Coroutine[object, object, T], timeout: float | None, address: PeerAddress
) -> T:
    try:
        async with asyncio.timeout(timeout):
            return await work
    except TimeoutError as error:
        raise Error(
            ErrorType.CONNECT_TIMEDOUT,
            f"connecting to {address}, not done within {timeout} s",
            source=ErrorSource.UPSTREAM,
        ) from error


async def _connect_custom(address: PeerAddress, options: PeerOptions) -> Stream:
    assert options.custom_l4 is not None
    try:
        return await options.custom_l4.connect(address)
    except OSError as error:
        failure = connect_error(error, address)
        raise failure from failure.cause


async def _connect_one(
    address: InetAddress | UnixAddress,
    options: PeerOptions,
    choose_bind: Callable[[InetAddress], BindTo | None],
) -> Stream:
    if isinstance(address, UnixAddress):
        return await _connect_unix(address, options.tracer)
    bind = options.bind_to if options.bind_to is not None else choose_bind(address)
    if bind is None:
        return await _connect_inet(address, options, None, None)
    try:
        return await _connect_inet(address, options, bind.addr, bind.port_range)
    except Error as error:
        # The range is taken, or this kernel knows no ranges.
        is_local = error.root_etype in {ErrorType.BIND_ERROR, ErrorType.SOCKET_ERROR}
        if bind.port_range is None or not (bind.fallback and is_local):
            raise
    return await _connect_inet(address, options, bind.addr, None)


async def _connect_inet(
    address: InetAddress,
    options: PeerOptions,
    source: InetAddress | None,
    port_range: tuple[int, int] | None,
) -> Stream:
    sock = _new_socket(address.family)
    try:
        _prepare(sock, options)
        if source is not None or port_range is not None:
            _bind(sock, source, port_range)
        if options.upstream_tcp_sock_tweak_hook is not None:
            options.upstream_tcp_sock_tweak_hook(sock)
    except Exception as error:
        sock.close()
        raise _local_error(f"preparing the socket to {address}", error) from error
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_connect(sock, address.sockaddr)
    except OSError as error:
        sock.close()
        failure = connect_error(error, address)
        raise failure from failure.cause
    except BaseException:
        sock.close()
        raise
    return await _attach(sock, options.tracer)


async def _connect_unix(address: UnixAddress, tracer: Tracer | None) -> Stream:
    sock = _new_socket(address.family)
    try:
        # The event loops take EAGAIN for "in progress", but here it means that the backlog is
        # full (unix(7)) and that nothing has happened.
        while True:
            try:
                sock.connect(address.sockaddr)
            except BlockingIOError:
                await asyncio.sleep(_BACKLOG_RETRY)
            else:
                break
    except OSError as error:
        sock.close()
        failure = connect_error(error, address)
        raise failure from failure.cause
    except BaseException:
        sock.close()
        raise
    return await _attach(sock, tracer)


def _new_socket(family: int) -> socket.socket:
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise _local_error("making a socket", error) from error
    sock.settimeout(0)
    return sock


def _prepare(sock: socket.socket, options: PeerOptions) -> None:
    sockopt.set_nodelay(sock)
    if options.tcp_keepalive is not None:
        sockopt.set_keepalive(sock, options.tcp_keepalive)
    if options.tcp_recv_buf is not None:
        sockopt.set_recv_buf(sock, options.tcp_recv_buf)
    if options.dscp is not None:
        sockopt.set_dscp(sock, options.dscp)
    if options.tcp_fast_open:
        sockopt.set_fastopen_connect(sock)


def _bind(
    sock: socket.socket, source: InetAddress | None, port_range: tuple[int, int] | None
) -> None:
    sockopt.set_bind_address_no_port(sock)
    if port_range is not None:
        sockopt.set_local_port_range(sock, *port_range)
    if source is not None:
        try:
            sock.bind(source.sockaddr)
        except OSError as error:
            raise Error(ErrorType.BIND_ERROR, f"binding to {source}", cause=error) from error


async def _attach(sock: socket.socket, tracer: Tracer | None) -> Stream:
    """Make a stream of a connected socket.

    Args:
        sock: The socket; closed if this fails.
        tracer: To be told of the stream's life.

    Returns:
        The stream.
    """
    loop = asyncio.get_running_loop()
    stream = L4Stream(loop) if tracer is None else _TracedStream(loop, tracer)
    is_attached = False

    def factory() -> L4Stream:
        nonlocal is_attached
        is_attached = True
        return stream

    try:
        # Both event loops take a connected stream socket of any family here.
        await loop.create_connection(factory, sock=sock)
    except BaseException:
        # From the moment the event loop has asked for the protocol, closing is its business.
        if not is_attached:
            sock.close()
        raise
    if tracer is not None:
        tracer.on_connected()
    return stream


def connect_error(error: OSError, address: PeerAddress) -> Error:
    """Turn the failure of a connection attempt into this framework's error.

    Args:
        error: What the system said.
        address: Where the connection was to go.

    Returns:
        The error. What is the fault of this machine (no free port, no permission) is
        ``INTERNAL_ERROR``, all else comes from upstream.

    Source: pingora-core/src/protocols/l4/ext.rs (``wrap_os_connect_error``), connectors/l4.rs.
    """
    context = f"connecting to {address}"
    code = errno.ETIMEDOUT if isinstance(error, TimeoutError) else error.errno
    match code:
        case errno.ECONNREFUSED:
            etype = ErrorType.CONNECT_REFUSED
        case errno.ETIMEDOUT:
            etype = ErrorType.CONNECT_TIMEDOUT
        case errno.ENETUNREACH | errno.EHOSTUNREACH:
            etype = ErrorType.CONNECT_NO_ROUTE
        case errno.EADDRNOTAVAIL:
            return _local_error(context, Error(ErrorType.BIND_ERROR, cause=error))
        case errno.EACCES | errno.EPERM | errno.EADDRINUSE:
            return _local_error(context, error)
        case _:
            etype = ErrorType.CONNECT_ERROR
    return Error.up(etype, context, cause=error)


def _local_error(context: str, cause: Exception) -> Error:
    return Error.internal(ErrorType.INTERNAL_ERROR, context, cause=cause)
