"""The keys of a server's configuration, their meanings and defaults, and what follows from them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from pingora_core.conf._cpus import usable_cpus
from pingora_core.conf._types import (  # noqa: TC001 - msgspec resolves the annotations
    Affinity,
    Bytes,
    Count,
    CountOrZero,
    Engine,
    Flag,
    Http2Engine,
    IPv4List,
    IPv6List,
    LogLevel,
    Seconds,
    SomeSeconds,
    Text,
    Umask,
    Workers,
)

__all__ = ["ACCEPTED", "LIVE", "RESTART", "SUPERVISED", "ServerKeys"]

ACCEPTED: Final = frozenset({
    "blocking_threads_ttl_seconds",
    "daemon_notify_timeout_seconds",
    "listener_tasks_per_fd",
    "s2n_config_cache_size",
    "upstream_connect_offload_thread_per_pool",
    "upstream_connect_offload_threadpools",
    "version",
    "work_stealing",
})  # fmt: skip
"""Keys without a meaning here, kept for Pingora's files."""

SUPERVISED: Final = frozenset({
    "worker_cpu_affinity",
    "worker_heartbeat_timeout_seconds",
    "worker_max_memory",
    "worker_max_requests",
    "worker_max_requests_jitter",
    "worker_restart_limit",
    "worker_restart_window_seconds",
    "workers",
})  # fmt: skip
"""Keys that a supervisor takes over at a reload; a server without one needs a restart for them."""

LIVE: Final = SUPERVISED | {
    "ca_file",
    "client_bind_to_ipv4",
    "client_bind_to_ipv6",
    "grace_period_seconds",
    "graceful_shutdown_timeout_seconds",
    "keepalive_min_seconds",
    "lame_duck_seconds",
    "log_level",
    "max_retries",
    "stream_drain_seconds",
    "upgrade_ready_timeout_seconds",
    "upgrade_sock",
    "upgrade_sock_connect_accept_max_retries",
    "upstream_keepalive_pool_size",
}
"""Keys that take effect at a reload."""

RESTART: Final = frozenset({
    "daemon",
    "daemon_ready_timeout_seconds",
    "daemon_wait_for_ready",
    "error_log",
    "fips",
    "group",
    "http1_parser",
    "http2_engine",
    "max_blocking_threads",
    "pid_file",
    "umask",
    "upstream_debug_ssl_keylog",
    "user",
    "working_directory",
})  # fmt: skip
"""Keys that only a new process reads: after a restart or an upgrade."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerKeys:
    """The keys that belong to the server.

    Keys, meanings and defaults are Pingora's, so that its configuration files carry over. Times
    are seconds. Keys marked *accepted* have no meaning here and are kept for such files.

    Attributes:
        version: Version of the file's format; informational.
        daemon: Run in the background.
        error_log: File that takes standard error when in the background.
        pid_file: Where the process id is written when in the background.
        upgrade_sock: Unix socket over which a successor takes the listening sockets.
        user: User to become once the addresses are bound, also in the foreground.
        group: Group to become; None for the user's own.
        working_directory: Directory to change to when in the background.
        umask: Mode bits that files of the server never get. None for 007 in the background, and
            for what was inherited in the foreground.
        log_level: What is logged; None leaves it to the program.
        workers: Worker processes; ``auto`` for one on each CPU that the server may use. A file
            may call it ``threads``.
        worker_cpu_affinity: CPUs that the first worker, the second and so on may use, and then
            from the start again; ``auto`` gives each worker one. None leaves it to the kernel.
        worker_heartbeat_timeout_seconds: A worker that has not answered for this long is killed
            and replaced; more than 1.
        worker_max_requests: Requests after which a worker is replaced. None for no limit.
        worker_max_requests_jitter: Up to this many more, by chance, so that not all workers are
            replaced at once.
        worker_max_memory: Resident memory in bytes above which a worker is replaced. None for
            no limit.
        worker_restart_limit: Crashes of workers within the window after which the server gives
            up.
        worker_restart_window_seconds: Length of that window.
        http1_parser: Which engine parses HTTP/1 heads: ``httptools``, the fast one, or ``h11``,
            the reference.
        http2_engine: Which library drives HTTP/2: ``h2``, the reference, or ``jh2``, which must
            be installed (``pingora-core[jh2]``).
        listener_tasks_per_fd: *Accepted.*
        work_stealing: *Accepted.*
        fips: Refuse to start unless OpenSSL uses nothing but its FIPS provider. It does not switch
            that on; OpenSSL's own configuration does.
        ca_file: CA bundle (PEM) that verifies upstreams; None for the system's.
        s2n_config_cache_size: *Accepted.*
        grace_period_seconds: How long what is in flight at a graceful stop may take; the server
            stops earlier when nothing is. None for 300.
        graceful_shutdown_timeout_seconds: How long what is cut off after that may take to clean
            up. None for 5.
        lame_duck_seconds: How long the server goes on as before after it was told to stop
            gracefully, only that it is not ready any more, so that balancers look elsewhere.
        stream_drain_seconds: How long what has no end of its own (websockets, event streams) may
            go on after a graceful stop began before it is closed cleanly. None for as long as
            everything else.
        keepalive_min_seconds: A client's connection that was used less than this ago when the
            server stops is given the rest of it to send another request; those idle for longer
            are closed at once.
        client_bind_to_ipv4: Source addresses for IPv4 upstreams; one is picked per connection.
        client_bind_to_ipv6: Source addresses for IPv6 upstreams.
        upstream_keepalive_pool_size: Idle upstream connections that are kept.
        upstream_connect_offload_threadpools: *Accepted.*
        upstream_connect_offload_thread_per_pool: *Accepted.*
        upstream_debug_ssl_keylog: Append TLS secrets to the file that the environment variable
            ``SSLKEYLOGFILE`` names.
        max_retries: Attempts that are made at most for one request.
        upgrade_sock_connect_accept_max_retries: Attempts to meet on the upgrade socket, one
            second apart. None for 5.
        upgrade_ready_timeout_seconds: How long the old server waits for the new one to be ready
            before it stays in service itself.
        max_blocking_threads: Threads for blocking calls. None for the event loop's own choice.
        blocking_threads_ttl_seconds: *Accepted.*
        daemon_wait_for_ready: Whether the parent waits until the background process is ready.
        daemon_ready_timeout_seconds: How long it waits.
        daemon_notify_timeout_seconds: *Accepted.*

    Source: pingora-core/src/server/configuration/mod.rs.
    """

    version: CountOrZero = 0
    daemon: Flag = False
    error_log: Text | None = None
    pid_file: Text = "/tmp/pingora.pid"  # noqa: S108 - Pingora's default
    upgrade_sock: Text = "/tmp/pingora_upgrade.sock"  # noqa: S108 - Pingora's default
    user: Text | None = None
    group: Text | None = None
    working_directory: Text | None = None
    umask: Umask | None = None
    log_level: LogLevel | None = None
    workers: Workers = 1
    worker_cpu_affinity: Affinity | None = None
    worker_heartbeat_timeout_seconds: SomeSeconds = 30.0
    worker_max_requests: Count | None = None
    worker_max_requests_jitter: CountOrZero = 0
    worker_max_memory: Bytes | None = None
    worker_restart_limit: Count = 10
    worker_restart_window_seconds: SomeSeconds = 60.0
    http1_parser: Engine = "httptools"
    http2_engine: Http2Engine = "h2"
    listener_tasks_per_fd: Count = 1
    work_stealing: Flag = True
    fips: Flag = False
    ca_file: Text | None = None
    s2n_config_cache_size: CountOrZero | None = None
    grace_period_seconds: Seconds | None = None
    graceful_shutdown_timeout_seconds: Seconds | None = None
    lame_duck_seconds: Seconds = 0.0
    stream_drain_seconds: Seconds | None = None
    keepalive_min_seconds: Seconds = 0.1
    client_bind_to_ipv4: IPv4List = ()
    client_bind_to_ipv6: IPv6List = ()
    upstream_keepalive_pool_size: Count = 128
    upstream_connect_offload_threadpools: CountOrZero | None = None
    upstream_connect_offload_thread_per_pool: CountOrZero | None = None
    upstream_debug_ssl_keylog: Flag = False
    max_retries: Count = 16
    upgrade_sock_connect_accept_max_retries: CountOrZero | None = None
    upgrade_ready_timeout_seconds: SomeSeconds = 60.0
    max_blocking_threads: Count | None = None
    blocking_threads_ttl_seconds: Seconds | None = None
    daemon_wait_for_ready: Flag = False
    daemon_ready_timeout_seconds: SomeSeconds = 600.0
    daemon_notify_timeout_seconds: SomeSeconds = 60.0

    # -------------------------------------------------------------- effective values

    @property
    def worker_count(self) -> int:
        """``workers``, with ``auto`` as the number it stands for on this machine."""
        return usable_cpus() if self.workers == "auto" else self.workers

    @property
    def threads(self) -> int:
        """Pingora's name for the number of workers."""
        return self.worker_count

    @property
    def is_supervised(self) -> bool:
        """Whether a supervisor with workers is needed: for several, or to replace one in time."""
        limits = (self.worker_max_requests, self.worker_max_memory)
        return self.worker_count > 1 or any(limit is not None for limit in limits)

    def worker_cpus(self, index: int) -> frozenset[int]:
        """Tell which CPUs a worker is bound to; to be called by the process that starts it.

        Args:
            index: Number of the worker, from 0.

        Returns:
            Their numbers; none if the kernel is to choose.
        """
        if self.worker_cpu_affinity is None:
            return frozenset()
        if self.worker_cpu_affinity == "auto":
            cpus = sorted(os.sched_getaffinity(0))
            return frozenset({cpus[index % len(cpus)]})
        return frozenset(self.worker_cpu_affinity[index % len(self.worker_cpu_affinity)])

    @property
    def grace_period(self) -> float:
        """``grace_period_seconds`` or its default, seconds."""
        return 300.0 if self.grace_period_seconds is None else self.grace_period_seconds

    @property
    def graceful_shutdown_timeout(self) -> float:
        """``graceful_shutdown_timeout_seconds`` or its default, seconds."""
        timeout = self.graceful_shutdown_timeout_seconds
        return 5.0 if timeout is None else timeout

    @property
    def stream_drain(self) -> float:
        """``stream_drain_seconds`` or its default, within the grace period, seconds."""
        drain = self.stream_drain_seconds
        return self.grace_period if drain is None else min(drain, self.grace_period)

    @property
    def upgrade_retries(self) -> int:
        """``upgrade_sock_connect_accept_max_retries`` or its default."""
        retries = self.upgrade_sock_connect_accept_max_retries
        return 5 if retries is None else retries
