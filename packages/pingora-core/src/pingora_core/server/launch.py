"""From a checked configuration to a process that may serve: background, sockets, privileges.

The order matters. The background comes first, because a fork leaves sockets and threads behind.
A predecessor's sockets come before our own, which would find the addresses taken. Privileged
ports are bound while that is allowed, and then the privileges go.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from pingora_core.conf import CONFIG_ERROR
from pingora_core.listeners.fds import ListenFds
from pingora_core.listeners.limits import raise_file_limit
from pingora_core.server.announcer import Announcer
from pingora_core.server.process import exit_code_of
from pingora_core.server.system import systemd
from pingora_core.server.system.daemon import NO_PIPE, daemonize, leave_parent, resolve_paths
from pingora_core.server.system.pid_file import PidFile
from pingora_core.server.system.privileges import drop_privileges, find_identity
from pingora_core.server.upgrade.transfer import Predecessor
from pingora_error import Error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pingora_core.conf import Opt, ServerConf
    from pingora_core.listeners.l4 import ServerAddress

__all__ = ["Launch", "launch"]

_logger = logging.getLogger(__name__)


@final
@dataclass(slots=True)
class Launch:
    """A process that may serve.

    Attributes:
        conf: The configuration, with absolute paths if the process is a daemon.
        fds: The listening sockets it has already.
        announcer: Told when the server is ready, or will not be.
        pid_file: Removed at the end; None if there is none.
    """

    conf: ServerConf
    fds: ListenFds
    announcer: Announcer
    pid_file: PidFile | None = None

    def failed(self, error: Error) -> None:
        """Tell everybody who waits that the server will not serve, and clean up.

        Args:
            error: Why.
        """
        why = error.context if error.etype == CONFIG_ERROR else str(error)
        self.announcer.failed(" ".join(why.split()), exit_code_of(error))
        self.end()

    def end(self) -> None:
        """Close the sockets that are left, and remove the files."""
        self.fds.close()
        if self.pid_file is not None:
            self.pid_file.remove()


def launch(
    conf: ServerConf,
    opt: Opt,
    *,
    find_addresses: Callable[[], Sequence[ServerAddress]],
    is_supervised: bool,
) -> Launch:
    """Make this process one that may serve.

    Args:
        conf: The configuration, checked.
        opt: The command line.
        find_addresses: Tells where all services are going to listen.
        is_supervised: Whether there will be workers, which need the sockets before they start.

    Returns:
        What the server goes on with.

    Raises:
        Error: If the process cannot become a daemon, the predecessor does not hand over, or an
            address or user is refused; whoever waits has been told.
    """
    raise_file_limit()
    pipe = NO_PIPE
    if conf.daemon:
        conf = resolve_paths(conf)
        pipe = daemonize(conf)
    else:
        if conf.umask is not None:
            os.umask(conf.umask)
        if opt.upgrade and systemd.is_managed():
            pipe = leave_parent(conf)
    started = Launch(conf, ListenFds(), Announcer(pipe))
    try:
        identity = find_identity(conf)
        if conf.daemon:
            started.pid_file = PidFile(conf.pid_file)
            started.pid_file.write(identity)
        activated = systemd.inherited_sockets()
        if opt.upgrade:
            predecessor = Predecessor.receive(
                conf.upgrade_sock,
                retries=conf.upgrade_retries,
                owner=None if identity is None else identity.uid,
                on_listening=lambda: pipe.say_next_step("waiting for the running server"),
            )
            started.announcer = Announcer(pipe, predecessor)
            started.fds = ListenFds(predecessor.sockets, shared=predecessor.shared, is_lent=True)
        for name, sock in activated.items():
            started.fds.adopt(name, sock, is_shared=True)
        if is_supervised or identity is not None:
            for address in find_addresses():
                started.fds.acquire_blocking(address)
        drop_privileges(conf)
    except Error as error:
        started.failed(error)
        raise
    return started
