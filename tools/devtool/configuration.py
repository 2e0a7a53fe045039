"""Writes the reference of a server's configuration from the types and docstrings of its keys.

Run by the verb ``check`` with the environment's Python, because it imports the packages::

    python tools/devtool/configuration.py          # writes docs/reference/configuration.md
    python tools/devtool/configuration.py --check  # exit code 1 if that file is another one
"""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import Annotated, Final, get_args, get_origin, get_type_hints

import msgspec
import yaml

# The page tells what the package keeps to itself.
from pingora_core.conf._keys import ACCEPTED, LIVE, SUPERVISED, ServerKeys  # noqa: PLC2701

__all__ = ["PAGE", "main", "render"]

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "reference" / "configuration.md"

_GROUPS: Final = {
    "Process": (
        "daemon", "daemon_wait_for_ready", "daemon_ready_timeout_seconds", "pid_file", "error_log",
        "working_directory", "user", "group", "umask", "log_level", "max_blocking_threads",
    ),
    "Workers": (
        "workers", "worker_cpu_affinity", "worker_heartbeat_timeout_seconds",
        "worker_max_requests", "worker_max_requests_jitter", "worker_max_memory",
        "worker_restart_limit", "worker_restart_window_seconds",
    ),
    "Stop and upgrade": (
        "grace_period_seconds", "graceful_shutdown_timeout_seconds", "lame_duck_seconds",
        "stream_drain_seconds", "keepalive_min_seconds", "upgrade_sock",
        "upgrade_sock_connect_accept_max_retries", "upgrade_ready_timeout_seconds",
    ),
    "HTTP and TLS": ("http1_parser", "http2_engine", "fips"),
    "Upstreams": (
        "max_retries", "upstream_keepalive_pool_size", "client_bind_to_ipv4",
        "client_bind_to_ipv6", "ca_file", "upstream_debug_ssl_keylog",
    ),
}  # fmt: skip

_HEAD: Final = """\
<!-- Written by tools/devtool/configuration.py; change the docstrings in pingora_core.conf. -->

# Configuration

The keys that a server has of its own. How to use them is told in [Configure a
server](../how-to/configure.md).

A value comes from, the later winning: the default; the configuration file (`-c FILE`, else the one
that `PINGORA_CONF` names); the environment variable `PINGORA_` and the key in capitals; the command
line. Times are seconds. `null` stands for no value.

*Changes* tells what a reload (SIGHUP) does: **live** keys take effect at once, those for **workers**
do if the server has a supervisor already (`workers` above 1, or a limit at which workers are
replaced); the others after a **restart** or an upgrade.
"""

_TAIL: Final = """
## Accepted without effect

Pingora's keys that have no meaning here, kept for its files. Setting one to something else than its
default is noted in the log. `version` is the version of the file's format; any is accepted, and no
environment variable sets it.

{keys}

`threads` is another name for `workers`.
"""


def render() -> str:
    """Write the page.

    Returns:
        Markdown.

    Raises:
        ValueError: If a key is in no group of the page, or in two.
    """
    grouped = [key for keys in _GROUPS.values() for key in keys]
    if sorted([*grouped, *ACCEPTED]) != sorted(each.name for each in fields(ServerKeys)):
        msg = "_GROUPS does not have each key once"
        raise ValueError(msg)
    hints = get_type_hints(ServerKeys, include_extras=True)
    meanings = _meanings()
    defaults = ServerKeys()
    parts = [_HEAD]
    for title, keys in _GROUPS.items():
        parts += [f"\n## {title}\n\n", "| key | allowed | default | changes | meaning |\n"]
        parts.append("|---|---|---|---|---|\n")
        for key in keys:
            value: object = getattr(defaults, key)
            cells = (f"`{key}`", _allowed(hints[key]), _show(value), _change(key), meanings[key])
            parts.append(f"| {' | '.join(cells)} |\n")
    parts.append(_TAIL.format(keys=", ".join(f"`{key}`" for key in sorted(ACCEPTED))))
    return "".join(parts)


def _meanings() -> dict[str, str]:
    text = inspect.getdoc(ServerKeys) or ""
    attributes = text.partition("Attributes:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", attributes, re.MULTILINE)
    return {key: _markdown(meaning) for key, meaning in entries}


def _markdown(text: str) -> str:
    line = " ".join(text.split())
    return re.sub(r"\bNone\b", "`null`", line).replace("``", "`").replace("``", "`")


def _allowed(hint: object) -> str:
    described = [
        meta.description
        for part in (hint, *get_args(hint))
        if get_origin(part) is Annotated
        for meta in part.__metadata__
        if isinstance(meta, msgspec.Meta) and meta.description
    ]
    return described[0] + (", or `null`" if NoneType in get_args(hint) else "")


def _show(value: object) -> str:
    if isinstance(value, tuple):
        value = list(value)
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    text = yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("\n...")
    return f"`{text}`"


def _change(key: str) -> str:
    if key in SUPERVISED:
        return "workers"
    return "live" if key in LIVE else "restart"


def main(arguments: list[str]) -> int:
    """Write the page, or check it.

    Args:
        arguments: ``--check`` to write nothing.

    Returns:
        The exit code: 1 if the check has found another page.
    """
    page = render()
    if arguments == ["--check"]:
        if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page:
            return 0
        print(f"{PAGE.name} is not what its generator writes: ./tools/dev check --fix")
        return 1
    PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
