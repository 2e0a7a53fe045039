"""The configuration of a server: its keys, their defaults, and what is allowed."""

from __future__ import annotations

import difflib
import ipaddress
import logging
from collections.abc import Mapping  # noqa: TC003 - msgspec resolves the annotations
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias, TypeVar, final

import yaml
from msgspec import Meta

from pingora_core.conf._load import (
    convert,
    load_mapping,
    read_file,
    refuse,
    refuse_value,
)

if TYPE_CHECKING:
    from pingora_core.conf._opt import Opt

__all__ = ["ServerConf"]

_logger = logging.getLogger(__name__)

T = TypeVar("T")

Flag: TypeAlias = Annotated[bool, Meta(description="true or false")]
Text: TypeAlias = Annotated[
    str, Meta(min_length=1, pattern=r"^[^\x00]*$", description="text, not empty")
]
Count: TypeAlias = Annotated[
    int, Meta(ge=1, le=2**31 - 1, description="a whole number of at least 1")
]
CountOrZero: TypeAlias = Annotated[
    int, Meta(ge=0, le=2**31 - 1, description="a whole number of at least 0")
]
Workers: TypeAlias = Annotated[
    int, Meta(ge=1, le=1024, description="a whole number from 1 to 1024")
]
# A year is as good as for ever, and keeps infinity out of the loop's clock arithmetic.
Seconds: TypeAlias = Annotated[
    float, Meta(ge=0, le=31_536_000, description="seconds, a number from 0 to 31536000")
]
SomeSeconds: TypeAlias = Annotated[
    float, Meta(gt=0, le=31_536_000, description="seconds, a number above 0, up to 31536000")
]
Engine: TypeAlias = Annotated[Literal["httptools", "h11"], Meta(description="httptools or h11")]
Http2Engine: TypeAlias = Annotated[Literal["h2", "jh2"], Meta(description="h2 or jh2")]
IPv4List: TypeAlias = Annotated[tuple[str, ...], Meta(description="a list of IPv4 addresses")]
IPv6List: TypeAlias = Annotated[tuple[str, ...], Meta(description="a list of IPv6 addresses")]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConf:
    """The configuration of a server.

    Keys, meanings and defaults are Pingora's, so that its configuration files carry over. Times
    are seconds. Keys marked *accepted* have no meaning here and are kept for such files.

    Attributes:
        version: Version of the file's format; informational.
        daemon: Run in the background.
        error_log: File that takes standard error when in the background.
        pid_file: Where the process id is written when in the background.
        upgrade_sock: Unix socket over which a successor takes the listening sockets.
        user: User to become when in the background.
        group: Group to become when in the background.
        working_directory: Directory to change to when in the background.
        workers: Worker processes. A file may call it ``threads``.
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
        client_bind_to_ipv4: Source addresses for IPv4 upstreams; one is picked per connection.
        client_bind_to_ipv6: Source addresses for IPv6 upstreams.
        upstream_keepalive_pool_size: Idle upstream connections that are kept.
        upstream_connect_offload_threadpools: *Accepted.*
        upstream_connect_offload_thread_per_pool: *Accepted.*
        upstream_debug_ssl_keylog: Append TLS secrets to the file that the environment variable
            ``SSLKEYLOGFILE`` names.
        max_retries: Attempts that are made at most for one request.
        upgrade_sock_connect_accept_max_retries: Attempts to meet on the upgrade socket. None
            for 5.
        max_blocking_threads: Threads for blocking calls. None for the event loop's own choice.
        blocking_threads_ttl_seconds: *Accepted.*
        daemon_wait_for_ready: Whether the parent waits until the background process is ready.
        daemon_ready_timeout_seconds: How long it waits.
        daemon_notify_timeout_seconds: How long the background process tries to tell it.
        extra: The keys of the file that are not listed here; see `section`.
        source: The file it came from, for messages.

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
    workers: Workers = 1
    http1_parser: Engine = "httptools"
    http2_engine: Http2Engine = "h2"
    listener_tasks_per_fd: Count = 1
    work_stealing: Flag = True
    fips: Flag = False
    ca_file: Text | None = None
    s2n_config_cache_size: CountOrZero | None = None
    grace_period_seconds: Seconds | None = None
    graceful_shutdown_timeout_seconds: Seconds | None = None
    client_bind_to_ipv4: IPv4List = ()
    client_bind_to_ipv6: IPv6List = ()
    upstream_keepalive_pool_size: Count = 128
    upstream_connect_offload_threadpools: CountOrZero | None = None
    upstream_connect_offload_thread_per_pool: CountOrZero | None = None
    upstream_debug_ssl_keylog: Flag = False
    max_retries: Count = 16
    upgrade_sock_connect_accept_max_retries: CountOrZero | None = None
    max_blocking_threads: Count | None = None
    blocking_threads_ttl_seconds: Seconds | None = None
    daemon_wait_for_ready: Flag = False
    daemon_ready_timeout_seconds: SomeSeconds = 600.0
    daemon_notify_timeout_seconds: SomeSeconds = 60.0
    extra: Mapping[str, object] = field(default_factory=dict, hash=False)
    source: str = field(default="ServerConf", compare=False)

    # -------------------------------------------------------------- effective values

    @property
    def threads(self) -> int:
        """Pingora's name for ``workers``."""
        return self.workers

    @property
    def grace_period(self) -> float:
        """``grace_period_seconds`` or its default, seconds."""
        return 300.0 if self.grace_period_seconds is None else self.grace_period_seconds

    @property
    def graceful_shutdown_timeout(self) -> float:
        """``graceful_shutdown_timeout_seconds`` or its default, seconds."""
        timeout = self.graceful_shutdown_timeout_seconds
        return 5.0 if timeout is None else timeout

    # ----------------------------------------------------------------------- loading

    @classmethod
    def load_from_yaml(cls, path: str) -> ServerConf:
        """Read a configuration file.

        Args:
            path: A YAML file.

        Returns:
            The configuration, valid.

        Raises:
            Error: ``CONFIG_ERROR`` with one line that names the file, the key, the value and
                what is allowed.
        """
        return cls.from_yaml(read_file(path), source=path)

    @classmethod
    def from_yaml(cls, text: str, *, source: str = "configuration") -> ServerConf:
        """Read a configuration from YAML text.

        Args:
            text: A mapping; keys that are not the server's own are kept in ``extra``.
            source: What messages call it.

        Returns:
            The configuration, valid.

        Raises:
            Error: As `load_from_yaml` does.
        """
        given = load_mapping(text, source)
        own = {key: value for key, value in given.items() if key in _KEYS}
        extra = {key: value for key, value in given.items() if key not in _KEYS}
        if "threads" in extra:
            threads = convert({"threads": extra.pop("threads")}, _Alias, source).threads
            if own.setdefault("workers", threads) != threads:
                problem = "and 'workers' are the same setting with two values, allowed: one of them"
                refuse(source, "threads", problem)
        _warn_of_misspelt(extra, source)
        conf = replace(convert(own, cls, source), extra=extra, source=source)
        conf.validate()
        return conf

    @classmethod
    def from_opt(cls, opt: Opt) -> ServerConf:
        """Make the configuration that a command line asks for.

        Args:
            opt: Names the file, and overrides what is in it.

        Returns:
            The configuration, valid.

        Raises:
            Error: As `load_from_yaml` does.
        """
        conf = cls() if opt.conf is None else cls.load_from_yaml(opt.conf)
        return conf.merge_with_opt(opt)

    def merge_with_opt(self, opt: Opt) -> ServerConf:
        """Let the command line have the last word.

        Args:
            opt: The command line.

        Returns:
            A configuration in which ``daemon`` is set if either side says so.
        """
        return replace(self, daemon=self.daemon or opt.daemon)

    # ---------------------------------------------------------------------- checking

    def validate(self) -> None:
        """Check every value, as loading does; for a configuration made in code.

        Raises:
            Error: As `load_from_yaml` does.
        """
        convert({key: getattr(self, key) for key in _KEYS}, ServerConf, self.source)
        for key, parse, allowed in (
            ("client_bind_to_ipv4", ipaddress.IPv4Address, "an IPv4 address"),
            ("client_bind_to_ipv6", ipaddress.IPv6Address, "an IPv6 address"),
        ):
            addresses: tuple[str, ...] = getattr(self, key)
            for index, address in enumerate(addresses):
                try:
                    parse(address)
                except ValueError as error:
                    where = f"{key}[{index}]"
                    refuse_value(self.source, where, address, allowed, cause=error)

    def check_files(self) -> None:
        """Check that the files the configuration names can be read.

        Raises:
            Error: As `load_from_yaml` does.
        """
        if self.ca_file is None:
            return
        try:
            Path(self.ca_file).open("rb").close()
        except OSError as error:
            allowed = f"a PEM file that can be read ({error.strerror})"
            refuse_value(self.source, "ca_file", self.ca_file, allowed, cause=error)

    # ----------------------------------------------------------- the other directions

    def section(self, key: str, wanted: type[T]) -> T:
        """Read a key of the application's own, typed.

        Args:
            key: A key of the file that is not the server's; an empty mapping stands for it when
                the file does not have it.
            wanted: The type of its value: a dataclass, most often. A field's description
                (``Annotated[int, msgspec.Meta(ge=1, description="at least 1")]``) is what the
                message says is allowed.

        Returns:
            The value.

        Raises:
            Error: As `load_from_yaml` does.
            ValueError: If the key is the server's own.

        Examples:
            >>> conf = ServerConf.from_yaml("limits: {rate: 5}")
            >>> conf.section("limits", dict[str, int])
            {'rate': 5}
        """
        if key in _KEYS or key == "threads":
            msg = f"{key!r} is a key of the server itself, read it as an attribute"
            raise ValueError(msg)
        return convert(self.extra.get(key, {}), wanted, self.source, key)

    def to_yaml(self) -> str:
        """Write the configuration out, with every key; `from_yaml` reads it back.

        Returns:
            YAML text.
        """
        values: dict[str, object] = {}
        for key in _KEYS:
            value: object = getattr(self, key)
            values[key] = list(value) if isinstance(value, tuple) else value
        return yaml.safe_dump(values | dict(self.extra), sort_keys=False)


@dataclass(frozen=True, slots=True)
class _Alias:
    threads: Workers


_KEYS: Final = tuple(
    each.name for each in fields(ServerConf) if each.name not in {"extra", "source"}
)


def _warn_of_misspelt(extra: Mapping[str, object], source: str) -> None:
    # Unknown keys belong to the application, so a slip of the pen cannot be an error.
    for key in extra:
        close = difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.85)
        if close:
            _logger.warning(
                "%s: key %r is not one of the server's; is %r meant?", source, key, close[0]
            )
