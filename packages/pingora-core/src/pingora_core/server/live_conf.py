"""The configuration in use: where it came from, and how another one takes its place."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, final

from pingora_core.conf import ServerConf, find_changes
from pingora_core.server.checks import check_configuration
from pingora_core.server.logs import configure_logging, reopen_logs
from pingora_core.server.process import say
from pingora_core.server.system.daemon import resolve_paths
from pingora_error import Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pingora_core.conf import Opt

    ReloadCallback: TypeAlias = Callable[[ServerConf], Awaitable[None]]

__all__ = ["LiveConfiguration"]

_logger = logging.getLogger(__name__)


@final
class LiveConfiguration:
    """What a server runs with, now.

    Args:
        opt: The command line.
        conf: The configuration; None for the one that ``opt`` names, or the defaults.

    Attributes:
        current: The configuration in use.
        callbacks: Awaited with a new configuration before it is in use.
        has_changed: Whether it was replaced since the start.

    Raises:
        Error: ``CONFIG_ERROR`` if the configuration is wrong.
    """

    def __init__(self, opt: Opt, conf: ServerConf | None) -> None:
        self.callbacks: list[ReloadCallback] = []
        self.has_changed: bool = False
        self._opt = opt
        self._is_given = conf is not None
        # The folder of the process may change when it goes to the background.
        self._path = None if opt.conf is None else os.path.abspath(opt.conf)  # noqa: PTH100 - text
        if conf is None:
            conf = ServerConf.from_opt(opt)
        else:
            if opt.conf is not None:
                _logger.warning("-c %s is ignored: a configuration was given", opt.conf)
            conf = conf.merge_with_opt(opt)
            conf.validate()
        check_configuration(conf, upgrade=opt.upgrade).conclude(say if opt.test else None)
        self.current: ServerConf = conf
        self._folder = Path.cwd()
        # A supervisor that is left with one worker is one still.
        self._is_supervised = conf.is_supervised

    def load(self) -> ServerConf:
        """Read the configuration again and check it.

        Returns:
            What the file, the environment and the command line say now, but for what cannot
            change while the server runs; the current one if it was given by the program.

        Raises:
            Error: ``CONFIG_ERROR`` with one line that says what is wrong.
        """
        if self._is_given:
            return self.current
        loaded = ServerConf.from_opt(replace(self._opt, conf=self._path))
        if self.current.daemon:
            loaded = resolve_paths(loaded, self._folder)
        changes = find_changes(self.current, loaded, is_supervised=self._is_supervised)
        check_configuration(changes.effective, reload=True).conclude()
        _logger.info("configuration loaded: %s", changes)
        return changes.effective

    def replace(self, conf: ServerConf) -> None:
        """Go on with another configuration.

        Args:
            conf: The new one.
        """
        self.current = conf
        self.has_changed = True
        configure_logging(conf)

    async def apply(self, conf: ServerConf) -> None:
        """Have the program take on a configuration, then go on with it.

        Args:
            conf: The new one.

        Raises:
            Error: If the program refuses it; then the old one stays.
        """
        for callback in self.callbacks:
            try:
                await callback(conf)
            except Error:
                raise
            except Exception as error:
                context = "the program could not take on the new configuration"
                raise Error(
                    ErrorType.INTERNAL_ERROR, context, source=ErrorSource.INTERNAL, cause=error
                ) from error
        self.replace(conf)

    def reopen_logs(self) -> None:
        """Close the log files and open them anew."""
        reopen_logs(self.current)
