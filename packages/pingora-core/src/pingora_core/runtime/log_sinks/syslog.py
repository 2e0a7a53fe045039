"""Log lines to a syslog server: RFC 5424 over UDP (RFC 5426), TCP (RFC 6587) or a Unix socket."""

from __future__ import annotations

import os
import select
import socket
import time
from enum import IntEnum
from typing import TYPE_CHECKING, Final, final

from pingora_core.runtime.log_sinks.sink import LogSink, PartlyWrittenError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Facility", "Severity", "SyslogSink"]

_TIMEOUT: Final = 2.0
_MAX_DATAGRAM: Final = 8192
_VERSION: Final = 1


class Facility(IntEnum):
    """Which part of a system a message comes from (RFC 5424 section 6.2.1)."""

    USER = 1
    DAEMON = 3
    LOCAL0 = 16
    LOCAL1 = 17
    LOCAL2 = 18
    LOCAL3 = 19
    LOCAL4 = 20
    LOCAL5 = 21
    LOCAL6 = 22
    LOCAL7 = 23


class Severity(IntEnum):
    """How bad it is (RFC 5424 section 6.2.1)."""

    ERROR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6
    DEBUG = 7


@final
class SyslogSink(LogSink):
    """Sends each line as a message to a syslog server.

    On streams a message is preceded by its length (octet counting, RFC 6587 section 3.4.1);
    datagrams are cut at 8,192 bytes. A connection that is lost is made anew with the next batch;
    of a batch that was under way then, lines may arrive twice, or not at all.

    Args:
        address: ``udp:HOST:PORT``, ``tcp:HOST:PORT``, ``unix:PATH`` (datagrams, such as
            ``unix:/dev/log``) or ``unix-stream:PATH``.
        app_name: Who sends it; at most 48 printable characters.
        facility: Which part of the system that is.
        severity: How bad the messages are.
        clock: Wall-clock time, seconds since the epoch.

    Raises:
        ValueError: If the address or the name is none.
    """

    def __init__(
        self,
        address: str,
        *,
        app_name: str = "pingora",
        facility: Facility = Facility.LOCAL0,
        severity: Severity = Severity.INFO,
        clock: Callable[[], float] = time.time,
    ) -> None:
        kind, _, rest = address.partition(":")
        host, _, port = rest.rpartition(":")
        if kind in {"unix", "unix-stream"} and rest:
            self._where: tuple[str, int] | str = rest
        elif kind in {"udp", "tcp"} and host and port.isdigit() and 0 < int(port) < 65536:
            self._where = (host.strip("[]"), int(port))
        else:
            forms = "udp:HOST:PORT, tcp:HOST:PORT, unix:PATH or unix-stream:PATH"
            raise ValueError(f"{address!r} is no syslog address: {forms}")
        if not 0 < len(app_name) <= 48 or not app_name.isascii() or not app_name.isprintable():
            msg = f"{app_name!r} is no name for syslog: 1 to 48 printable characters"
            raise ValueError(msg)
        self._is_stream = kind in {"tcp", "unix-stream"}
        self._clock = clock
        self._priority = facility * 8 + severity
        self._app_name = app_name.replace(" ", "_")
        self._socket: socket.socket | None = None

    def write(self, lines: Sequence[bytes]) -> None:
        """Send lines, each as a message.

        Args:
            lines: Without line ends.

        Raises:
            PartlyWrittenError: If the server cannot be reached, or takes nothing for two seconds.
        """
        head = self._head()
        done = 0
        try:
            sock = self._socket
            if sock is None or (self._is_stream and _was_closed(sock)):
                self.close()
                sock = self._socket = self._connect()
            if self._is_stream:
                messages = (head + line for line in lines)
                sock.sendall(b"".join(b"%d %b" % (len(m), m) for m in messages))
            else:
                for line in lines:
                    sock.send((head + line)[:_MAX_DATAGRAM])
                    done += 1
        except OSError as error:
            self.close()
            raise PartlyWrittenError(done, error) from error

    def _head(self) -> bytes:
        now = self._clock()
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        stamp = f"{moment}.{int(now % 1 * 1000):03}Z"
        host = socket.gethostname().replace(" ", "_")[:255] or "-"
        text = f"<{self._priority}>{_VERSION} {stamp} {host} {self._app_name} {os.getpid()} - - "
        return text.encode()

    def _connect(self) -> socket.socket:
        where = self._where
        kind = socket.SOCK_STREAM if self._is_stream else socket.SOCK_DGRAM
        if not isinstance(where, str):
            if self._is_stream:
                return socket.create_connection(where, _TIMEOUT)
            family, _, proto, _, address = socket.getaddrinfo(*where, type=kind)[0]
            return _connected(socket.socket(family, kind, proto), address)
        return _connected(socket.socket(socket.AF_UNIX, kind), where)

    def close(self) -> None:
        """Close the connection."""
        sock, self._socket = self._socket, None
        if sock is not None:
            sock.close()


def _connected(sock: socket.socket, address: tuple[object, ...] | str) -> socket.socket:
    sock.settimeout(_TIMEOUT)
    try:
        sock.connect(address)
    except OSError:
        sock.close()
        raise
    return sock


def _was_closed(sock: socket.socket) -> bool:
    # What is sent to somebody who has gone is lost, and nothing tells; that he has gone, something does.
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    try:
        while poll.poll(0):
            if not sock.recv(4096):
                return True
    except OSError:
        return True
    return False
