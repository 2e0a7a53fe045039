"""Every module imports on its own, so no import order hides a cycle."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.architecture.workspace import PACKAGES, modules

# Libraries stay loaded, or each child would spend half a second on them; our own modules do not.
_FIRST_IN_A_FRESH_PROCESS = """
import gc, importlib, os, sys
gc.disable()
for name in sys.argv[1:]:
    importlib.import_module(name)
for name in [name for name in sys.modules if name.partition(".")[0].startswith("pingora_")]:
    del sys.modules[name]
# Whoever imports any module of a package imports the package first, and with it all that it names:
# those modules have no other way to be imported than this one.
importlib.import_module(sys.argv[1].partition(".")[0])
children = {}
def reap():
    pid, status = os.wait()
    name = children.pop(pid)
    if status != 0:
        sys.exit(f"{name} cannot be imported first")
for name in [name for name in sys.argv[1:] if name not in sys.modules]:
    if len(children) == os.cpu_count():
        reap()
    pid = os.fork()
    if pid == 0:
        importlib.import_module(name)
        os._exit(0)
    children[pid] = name
while children:
    reap()
"""


@pytest.mark.parametrize("package", PACKAGES)
def test_each_module_imports_alone(package: str) -> None:
    """Each module of a package can be the first of ours that a process imports."""
    command = [sys.executable, "-W", "error", "-c", _FIRST_IN_A_FRESH_PROCESS]

    done = subprocess.run(
        [*command, *modules(package)], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr


def test_the_packages_are_those_of_the_design() -> None:
    """Nobody adds a ninth package, or loses one, without meaning to."""
    assert PACKAGES == (
        "pingora_cache",
        "pingora_core",
        "pingora_error",
        "pingora_http",
        "pingora_limits",
        "pingora_load_balancing",
        "pingora_pool",
        "pingora_proxy",
    )
