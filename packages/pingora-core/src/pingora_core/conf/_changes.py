"""What a reload can do about each key: which take effect in the server that runs, and which not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, final

from pingora_core.conf._keys import LIVE, RESTART, SUPERVISED

if TYPE_CHECKING:
    from pingora_core.conf._server_conf import ServerConf

__all__ = ["ConfChanges", "find_changes"]

_ABSENT: Final = object()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ConfChanges:
    """What is different in a configuration that was loaded anew.

    Attributes:
        live: Keys that take effect in the server that runs, sorted.
        restart: Keys that need a restart or an upgrade, sorted.
        sections: Keys of the application's own that are different, there or gone, sorted.
        effective: The loaded configuration with the running one's values of the keys that need
            a restart: what the server goes on with.
    """

    live: tuple[str, ...]
    restart: tuple[str, ...]
    sections: tuple[str, ...]
    effective: ServerConf

    def __bool__(self) -> bool:
        return bool(self.live or self.restart or self.sections)

    def __str__(self) -> str:
        parts = [
            ("takes effect", self.live),
            ("needs a restart or an upgrade", self.restart),
            ("for the application", self.sections),
        ]
        told = [f"{what}: {', '.join(keys)}" for what, keys in parts if keys]
        return "; ".join(told) or "nothing has changed"


def find_changes(
    running: ServerConf, loaded: ServerConf, *, is_supervised: bool | None = None
) -> ConfChanges:
    """Compare the configuration of a server with the same one loaded anew.

    Args:
        running: What the server runs with.
        loaded: What its file, environment and command line say now.
        is_supervised: Whether a supervisor with workers is there, which alone can change their
            number and their rules; None to conclude it from ``running``.

    Returns:
        The differences; keys without a meaning here are none.
    """
    if is_supervised is None:
        is_supervised = running.is_supervised
    # A single process cannot become a supervisor; rules that need none do not matter to it.
    needs_supervisor = not is_supervised and loaded.is_supervised
    restart = RESTART | SUPERVISED if needs_supervisor else RESTART
    changed = {key for key in LIVE | RESTART if getattr(running, key) != getattr(loaded, key)}
    kept = {key: getattr(running, key) for key in restart & changed}
    sections = sorted(
        key
        for key in running.extra.keys() | loaded.extra.keys()
        if running.extra.get(key, _ABSENT) != loaded.extra.get(key, _ABSENT)
    )
    return ConfChanges(
        live=tuple(sorted(changed - restart)),
        restart=tuple(sorted(changed & restart)),
        sections=tuple(sections),
        effective=replace(loaded, **kept),
    )
