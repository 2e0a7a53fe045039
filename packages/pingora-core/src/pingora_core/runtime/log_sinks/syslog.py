"""Log lines to a syslog server: RFC 5424 over UDP (RFC 5426), TCP (RFC 6587) or a Unix socket."""

from __future__ import annotations

import os
import socket
import time
from enum import IntEnum
from typing import TYPE_CHECKING, Final, final

from pingora_core.runtime.log_sinks.sink import LogSink

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

    Over TCP a message is preceded by its length (octet counting, RFC 6587 section 3.4.1). Over UDP
    and Unix datagrams it is cut at 8,192 bytes. A connection that is lost is made anew with the
    next batch.

    Args:
        address: ``udp:HOST:PORT``, ``tcp:HOST:PORT`` or ``unix:PATH`` (datagrams, such as
            ``unix:/dev/log``).
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
        if kind == "unix" and rest:
            self._where: tuple[str, int] | str = rest
        elif kind in {"udp", "tcp"} and host and port.isdigit() and 0 < int(port) < 65536:
            self._where = (host.strip("[]"), int(port))
        else:
            msg = f"{address!r} is no syslog address: udp:HOST:PORT, tcp:HOST:PORT or unix:PATH"
            raise ValueError(msg)
        if not 0 < len(app_name) <= 48 or not app_name.isascii() or not app_name.isprintable():
            msg = f"{app_name!r} is no name for syslog: 1 to 48 printable characters"
            raise ValueError(msg)
        self._is_stream = kind == "tcp"
        self._clock = clock
        self._priority = facility * 8 + severity
        self._app_name = app_name.replace(" ", "_")
        self._socket: socket.socket | None = None

    def write(self, lines: Sequence[bytes]) -> None:
        """Send lines, each as a message.

        Args:
            lines: Without line ends.

        Raises:
            OSError: If the server cannot be reached, or takes nothing for two seconds.
        """
        head = self._head()
        try:
            sock = self._socket
            if sock is None:
                sock = self._socket = self._connect()
            if self._is_stream:
                messages = (head + line for line in lines)
                sock.sendall(b"".join(b"%d %b" % (len(m), m) for m in messages))
            else:
                for line in lines:
                    sock.send((head + line)[:_MAX_DATAGRAM])
        except OSError:
            self.close()
            raise

    def _head(self) -> bytes:
        now = self._clock()
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        stamp = f"{moment}.{int(now % 1 * 1000):03}Z"
        host = socket.gethostname().replace(" ", "_")[:255] or "-"
        text = f"<{self._priority}>{_VERSION} {stamp} {host} {self._app_name} {os.getpid()} - - "
        return text.encode()

    def _connect(self) -> socket.socket:
        where = self._where
        if isinstance(where, str):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            sock.settimeout(_TIMEOUT)
            try:
                sock.connect(where)
            except OSError:
                sock.close()
                raise
            return sock
        if self._is_stream:
            return socket.create_connection(where, _TIMEOUT)
        host, port = where
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        sock = socket.socket(family, kind, proto)
        sock.settimeout(_TIMEOUT)
        try:
            sock.connect(address)
        except OSError:
            sock.close()
            raise
        return sock

    def close(self) -> None:
        """Close the connection."""
        sock, self._socket = self._socket, None
        if sock is not None:
            sock.close()
