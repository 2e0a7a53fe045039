"""Whether a server could run as it is configured: what ``-t`` tells, and every start looks at.

Theory of operation
-------------------
Loading has made sure that each value is of its kind. Here it is held against the system: files,
directories, users, processors, services, and for ``-t`` the addresses. All that is wrong is
collected, so that an operator mends it at one go; what may be right, such as an address that is in
use because the running server has it, is a note. Only what will be used is looked at: in the
foreground nobody writes a pid file.

Nothing is changed: what is opened is closed at once, no file is made, and no file of a Unix socket
is removed.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from pingora_core.conf import CONFIG_ERROR
from pingora_core.protocols.tls.certificate import CaBundle
from pingora_core.protocols.tls.openssl import find_fips_problem
from pingora_core.server.checks._addresses import find_overlaps, probe, probe_source
from pingora_core.server.checks._files import (
    reason_of,
    require_creatable,
    require_directory,
    require_writable,
)
from pingora_core.server.process import say
from pingora_core.server.system.privileges import check_privileges
from pingora_error import Error, ErrorSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pingora_core.conf import Opt, ServerConf
    from pingora_core.services.service import Service

__all__ = [
    "Findings",
    "check_addresses",
    "check_before_start",
    "check_configuration",
    "check_services",
]

_logger = logging.getLogger(__name__)

# What fits sockaddr_un.sun_path with its closing NUL (unix(7)).
_MAX_UNIX_PATH: Final = 107
# How often a healthy worker gives a sign of life, seconds.
_HEARTBEAT: Final = 1.0


@final
@dataclass(slots=True)
class Findings:
    """What checks have found.

    Attributes:
        problems: What is wrong, a line each; the server must not start.
        notes: What may be meant like that, a line each.
    """

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, other: Findings) -> None:
        """Take in what other checks have found.

        Args:
            other: Their findings.
        """
        self.problems += other.problems
        self.notes += other.notes

    def conclude(self, tell: Callable[[str], None] | None = None) -> None:
        """Tell the notes, and refuse to go on if there are problems.

        Args:
            tell: Called with each note; None to log them.

        Raises:
            Error: ``CONFIG_ERROR`` with all problems in one line.
        """
        for note in self.notes:
            if tell is None:
                _logger.info("%s", note)
            else:
                tell(f"note: {note}")
        if self.problems:
            raise Error(CONFIG_ERROR, "; ".join(self.problems), source=ErrorSource.INTERNAL)


def check_before_start(conf: ServerConf, opt: Opt, services: Sequence[Service]) -> None:
    """Check what only a program with all its services can tell; with ``-t`` the addresses, too.

    Args:
        conf: The configuration.
        opt: The command line.
        services: All services of the server.

    Raises:
        Error: ``CONFIG_ERROR`` with all problems in one line.
    """
    found = check_services(services)
    if opt.test:
        found.add(check_addresses(conf, services, upgrade=opt.upgrade))
    found.conclude(say if opt.test else None)


def check_configuration(
    conf: ServerConf, *, upgrade: bool = False, reload: bool = False
) -> Findings:
    """Hold a configuration against the system.

    Args:
        conf: The configuration, valid in itself.
        upgrade: Whether the server is to take over from a running one.
        reload: Whether the server runs already, perhaps as a user who could not start it; what
            only its start needs is not looked at.

    Returns:
        What is wrong with it, each with the place, the value and what is allowed.
    """
    found = Findings()
    _check_libraries(conf, found)
    _check_ca_file(conf, found)
    _check_workers(conf, found, used_memory=0 if reload else _resident_memory())
    _check_times(conf, found)
    if reload:
        return found
    try:
        check_privileges(conf)
    except Error as error:
        found.problems.append(_line(error))
    if conf.daemon:
        _check_background(conf, found)
    _check_upgrade_sock(conf, found, is_used=upgrade)
    return found


def check_services(services: Iterable[Service]) -> Findings:
    """Have each service look for mistakes in how it is set up: addresses, certificates.

    Services that listen on the same address share its socket, port 0 included; that is noted.

    Args:
        services: The services of the server.

    Returns:
        What they have found, and which of them have one socket together.
    """
    found = Findings()
    first: dict[str, str] = {}
    for service in services:
        try:
            service.check()
        except Error as error:
            found.problems.append(_line(error))
        for address in service.listen_addresses:
            earlier = first.setdefault(address.key, service.name)
            if earlier != service.name:
                found.notes.append(
                    f"services {earlier!r} and {service.name!r} share the socket of {address.key}:"
                    " each connection goes to one of them, whichever accepts it"
                )
    return found


def check_addresses(
    conf: ServerConf, services: Iterable[Service], *, upgrade: bool = False
) -> Findings:
    """Find out whether this machine and this user could have the addresses; it blocks.

    For ``-t``: a start tries the addresses themselves, and has some of them already if it
    inherits them.

    Args:
        conf: Names the addresses that connections to upstreams come from.
        services: Name the addresses that they listen on.
        upgrade: Whether sockets are inherited, from a server that runs or a service manager; what
            only somebody else may do is no problem then.

    Returns:
        What is wrong, and which addresses are in use.
    """
    found = Findings()
    places = []
    for service in services:
        for address in service.listen_addresses:
            result = probe(service.name, address)
            if result.place is not None:
                places.append(result.place)
            if result.problem is not None:
                is_lack_of_rights = result.needs_rights and upgrade
                (found.notes if is_lack_of_rights else found.problems).append(result.problem)
            if result.note is not None:
                found.notes.append(result.note)
    found.problems += find_overlaps(places)
    for key in ("client_bind_to_ipv4", "client_bind_to_ipv6"):
        hosts: tuple[str, ...] = getattr(conf, key)
        for index, host in enumerate(hosts):
            reason = probe_source(host)
            if reason is not None:
                allowed = f"an address of this machine ({reason})"
                found.problems.append(conf.problem(key, allowed, index))
    return found


# ------------------------------------------------------------------------------- single checks


def _check_libraries(conf: ServerConf, found: Findings) -> None:
    if conf.fips and (reason := find_fips_problem()):
        found.problems.append(conf.problem("fips", f"false, because {reason}"))
    if conf.http2_engine != "h2" and importlib.util.find_spec(conf.http2_engine) is None:
        advice = f"h2, as long as 'pingora-core[{conf.http2_engine}]' is not installed"
        found.problems.append(conf.problem("http2_engine", advice))
    if conf.upstream_debug_ssl_keylog and not os.environ.get("SSLKEYLOGFILE"):
        place = conf.place("upstream_debug_ssl_keylog")
        found.notes.append(f"{place}: without effect, SSLKEYLOGFILE is not set")


def _check_ca_file(conf: ServerConf, found: Findings) -> None:
    if conf.ca_file is None:
        return
    try:
        CaBundle.from_file(conf.ca_file)
    except Error as error:
        cause: BaseException | None = error
        while isinstance(cause, Error):
            cause = cause.cause
        # The library goes on with advice to programmers.
        reason = cause.strerror if isinstance(cause, OSError) else str(cause).partition(". ")[0]
        allowed = f"a PEM file with certificates that can be read ({reason})"
        found.problems.append(conf.problem("ca_file", allowed))


def _check_background(conf: ServerConf, found: Findings) -> None:
    if (folder := conf.working_directory) is not None:
        with _noting(conf, "working_directory", "a directory that can be entered", found):
            require_directory(folder, os.X_OK)
    if (log := conf.error_log) is not None:
        with _noting(conf, "error_log", "a file that can be written to", found):
            require_writable(log)
    with _noting(conf, "pid_file", "a file that can be made", found):
        require_creatable(conf.pid_file)


def _check_upgrade_sock(conf: ServerConf, found: Findings, *, is_used: bool) -> None:
    # A relative path is used in full, because the working directory may change.
    size = len(os.fsencode(Path(conf.upgrade_sock).absolute()))
    if size > _MAX_UNIX_PATH:
        allowed = f"a path of up to {_MAX_UNIX_PATH} bytes with all its directories, not {size}"
        found.problems.append(conf.problem("upgrade_sock", allowed))
    elif is_used:
        with _noting(conf, "upgrade_sock", "a socket that can be made", found):
            require_creatable(conf.upgrade_sock, is_socket=True)


@contextmanager
def _noting(conf: ServerConf, key: str, allowed: str, found: Findings) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        path: str = getattr(conf, key)
        found.problems.append(conf.problem(key, f"{allowed} ({reason_of(error, path)})"))


def _check_workers(conf: ServerConf, found: Findings, *, used_memory: int) -> None:
    affinity = conf.worker_cpu_affinity
    if isinstance(affinity, tuple):
        usable = os.sched_getaffinity(0)
        for index, cpus in enumerate(affinity):
            for position, cpu in enumerate(cpus):
                if cpu not in usable:
                    allowed = f"CPUs that this process may use, {_ranges(usable)}"
                    problem = conf.problem("worker_cpu_affinity", allowed, index, position)
                    found.problems.append(problem)
    if conf.worker_heartbeat_timeout_seconds <= _HEARTBEAT:
        allowed = f"more than {_HEARTBEAT:g}, because workers give a sign of life every second"
        found.problems.append(conf.problem("worker_heartbeat_timeout_seconds", allowed))
    if conf.worker_max_memory is not None and conf.worker_max_memory <= used_memory:
        # Each worker would be replaced as soon as it is there.
        used = f"the {used_memory} bytes that this program has before it serves anything"
        found.problems.append(conf.problem("worker_max_memory", f"more than {used}"))
    if conf.worker_max_requests is None and conf.worker_max_requests_jitter:
        place = conf.place("worker_max_requests_jitter")
        found.notes.append(f"{place}: without effect, worker_max_requests is not set")


def _check_times(conf: ServerConf, found: Findings) -> None:
    drain = conf.stream_drain_seconds
    if drain is not None and drain > conf.grace_period:
        place = conf.place("stream_drain_seconds")
        found.notes.append(f"{place}: cut to the grace period of {conf.grace_period:g} seconds")


# ----------------------------------------------------------------------------- what the system has


def _resident_memory() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _ranges(cpus: Iterable[int]) -> str:
    parts: list[list[int]] = []
    for cpu in sorted(cpus):
        if parts and cpu == parts[-1][1] + 1:
            parts[-1][1] = cpu
        else:
            parts.append([cpu, cpu])
    return ", ".join(f"{low}" if low == high else f"{low}-{high}" for low, high in parts)


def _line(error: Error) -> str:
    # A configuration error is written to be shown as it is.
    return (error.context or "") if error.etype == CONFIG_ERROR else str(error)
