"""The configuration of a server: how it comes from file, environment and command line."""

from __future__ import annotations

import ipaddress
import logging
import os
from collections.abc import Mapping  # noqa: TC003 - msgspec resolves the annotations
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import TYPE_CHECKING, Final, TypeVar, final, get_type_hints

import yaml

from pingora_core.conf._environment import read_environment, resembling
from pingora_core.conf._keys import ACCEPTED, ServerKeys
from pingora_core.conf._load import (
    convert,
    describe_value,
    load_mapping,
    read_file,
    refuse,
    refuse_value,
)
from pingora_core.conf._strangers import refuse_strangers
from pingora_core.conf._types import UMASK_ALLOWED, Workers, parse_umask, show_umask

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pingora_core.conf._opt import Opt

__all__ = ["ServerConf"]

_logger = logging.getLogger(__name__)

T = TypeVar("T")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConf(ServerKeys):
    """The configuration of a server: the keys of `ServerKeys`, and where they come from.

    Attributes:
        extra: The keys of the file that are not listed here; see `section`.
        source: The file it came from, for messages.
        origins: By key where its value came from, where that is not the file, for messages.

    Source: pingora-core/src/server/configuration/mod.rs.
    """

    extra: Mapping[str, object] = field(default_factory=dict, hash=False)
    source: str = field(default="ServerConf", compare=False)
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)

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
    def from_yaml(
        cls, text: str, *, source: str = "configuration", quiet: bool = False
    ) -> ServerConf:
        """Read a configuration from YAML text.

        Args:
            text: A mapping; keys that are not the server's own are kept in ``extra``.
            source: What messages call it.
            quiet: Whether to log nothing about what is odd but allowed, because whoever wrote the
                text, such as another process with `to_yaml`, has done so.

        Returns:
            The configuration, valid.

        Raises:
            Error: As `load_from_yaml` does.
        """
        given = load_mapping(text, source, verbatim={"umask"})
        own = {key: value for key, value in given.items() if key in _KEYS}
        extra = {key: value for key, value in given.items() if key not in _KEYS}
        if "threads" in extra:
            threads = convert({"threads": extra.pop("threads")}, _Alias, source).threads
            if own.setdefault("workers", threads) != threads:
                refuse(source, "threads", f"and 'workers' {_TWO_VALUES}")
        if isinstance(written := own.get("umask"), str):
            own["umask"] = parse_umask(written)
            if own["umask"] is None:
                refuse_value(source, "umask", written, UMASK_ALLOWED)
        conf = replace(convert(own, cls, source), extra=extra, source=source)
        conf.validate()
        if not quiet:
            for key in extra:
                _warn_of_misspelt(key, source)
            _note_accepted(conf, own)
        return conf

    @classmethod
    def from_opt(cls, opt: Opt, environ: Mapping[str, str] | None = None) -> ServerConf:
        """Make the configuration that a program is started with.

        The file that the command line names, then what the environment has to say
        (``PINGORA_WORKERS=auto`` and so on for every key but ``version``), then the command line.

        Args:
            opt: Names the file, and overrides what is in it.
            environ: The environment; None for that of the process.

        Returns:
            The configuration, valid.

        Raises:
            Error: As `load_from_yaml` does.
        """
        conf = cls() if opt.conf is None else cls.load_from_yaml(opt.conf)
        return conf.merge_with_environment(environ).merge_with_opt(opt)

    def merge_with_environment(self, environ: Mapping[str, str] | None = None) -> ServerConf:
        """Let the environment override keys of the server.

        Args:
            environ: The environment; None for that of the process.

        Returns:
            A configuration with its values.

        Raises:
            Error: ``CONFIG_ERROR`` with one line that names the variable, its value and what is
                allowed.
        """
        found = read_environment(os.environ if environ is None else environ, _hints())
        if "threads" in found:
            threads, place = found.pop("threads")
            if found.setdefault("workers", (threads, place))[0] != threads:
                refuse(place, "", f"and that for 'workers' {_TWO_VALUES}")
        if not found:
            return self
        values = {key: getattr(self, key) for key in _KEYS}
        values |= {key: value for key, (value, _) in found.items()}
        origins = {key: place for key, (_, place) in found.items()}
        conf = replace(
            convert(values, ServerConf, self.source),
            extra=self.extra,
            source=self.source,
            origins={**self.origins, **origins},
        )
        conf.validate()
        _note_accepted(conf, found)
        return conf

    def merge_with_opt(self, opt: Opt) -> ServerConf:
        """Let the command line have the last word.

        Args:
            opt: The command line.

        Returns:
            A configuration in which ``daemon`` is set if either side says so.
        """
        if not opt.daemon or self.daemon:
            return self
        return replace(self, daemon=True, origins={**self.origins, "daemon": "option -d"})

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
                    source, where = self._locate(key, index)
                    refuse_value(source, where, address, allowed, cause=error)

    def problem(self, key: str, allowed: str, *steps: int) -> str:
        """Word a complaint about a value, as loading words them.

        Args:
            key: A key of the server.
            allowed: What would be right, and why.
            steps: Which item of a list it is about, and which of that item.

        Returns:
            One line: where the value is from, the key, the value, what is allowed.
        """
        value: object = getattr(self, key)
        for step in steps:
            assert isinstance(value, tuple)
            value = value[step]
        return describe_value(*self._locate(key, *steps), value, allowed)

    def place(self, key: str) -> str:
        """Say where the value of a key is from.

        Args:
            key: A key of the server.

        Returns:
            Such as ``conf.yaml: workers`` or ``environment variable PINGORA_WORKERS``.
        """
        return ": ".join(filter(None, self._locate(key)))

    def _locate(self, key: str, *steps: int) -> tuple[str, str]:
        items = "".join(f"[{step}]" for step in steps)
        origin = self.origins.get(key)
        return (self.source, key + items) if origin is None else (origin, items)

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
            Error: As `load_from_yaml` does; also if a key in it is none of the type's.
            ValueError: If the key is the server's own.

        Examples:
            >>> conf = ServerConf.from_yaml("limits: {rate: 5}")
            >>> conf.section("limits", dict[str, int])
            {'rate': 5}
        """
        if key in _KEYS or key == "threads":
            msg = f"{key!r} is a key of the server itself, read it as an attribute"
            raise ValueError(msg)
        data = self.extra.get(key, {})
        value = convert(data, wanted, self.source, key)
        refuse_strangers(data, wanted, self.source, key)
        return value

    def to_yaml(self) -> str:
        """Write the configuration out, with every key; `from_yaml` reads it back.

        Returns:
            YAML text.
        """
        values: dict[str, object] = {}
        for key in _KEYS:
            value: object = getattr(self, key)
            values[key] = _to_lists(value)
        if self.umask is not None:
            values["umask"] = show_umask(self.umask)
        return yaml.safe_dump(values | dict(self.extra), sort_keys=False)


@dataclass(frozen=True, slots=True)
class _Alias:
    threads: Workers


_KEYS: Final = tuple(each.name for each in fields(ServerKeys))
_DEFAULTS: Final = ServerConf()
_TWO_VALUES: Final = "are the same setting with two values, allowed: one of them"


@cache
def _hints() -> Mapping[str, object]:
    # What the environment may set. A variable named for the version of a file is not about it.
    hints = get_type_hints(ServerConf, include_extras=True)
    return {key: hints[key] for key in _KEYS if key != "version"} | {"threads": Workers}


def _note_accepted(conf: ServerConf, given: Iterable[str]) -> None:
    # Who sets such a key to something expects an effect.
    for key in sorted(ACCEPTED.intersection(given) - {"version"}):
        if getattr(conf, key) != getattr(_DEFAULTS, key):
            note = "has no meaning here; the key is accepted for the sake of Pingora's files"
            _logger.warning("%s: %s", conf.place(key), note)


def _to_lists(value: object) -> object:
    return [_to_lists(item) for item in value] if isinstance(value, tuple) else value


def _warn_of_misspelt(key: str, source: str) -> None:
    # Unknown keys belong to the application, so a slip of the pen cannot be an error.
    close = resembling(key, _hints())
    if close is not None:
        _logger.warning("%s: key %r is not one of the server's; is %r meant?", source, key, close)
