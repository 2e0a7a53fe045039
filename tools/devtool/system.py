"""The verb ``deps``: programs of the system that tests, conformance and benchmark use."""

from __future__ import annotations

import os
import shlex
import shutil
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from devtool.shell import VerbError, run, say

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["PROGRAMS", "install", "missing_packages"]

# Program looked for -> Debian package that brings it.
PROGRAMS = {
    "chromium-headless-shell": "chromium-headless-shell",
    "curl": "curl",
    "dnsmasq": "dnsmasq-base",
    "git": "git",
    "h2load": "nghttp2-client",
    "haproxy": "haproxy",
    "nginx": "nginx-light",
    "openssl": "openssl",
    "redis-server": "redis-server",
    "systemd-analyze": "systemd",
    "taskset": "util-linux",
    "testssl": "testssl.sh",
    "wrk": "wrk",
}
_POLICY = Path("/usr/sbin/policy-rc.d")
_EXTRA_PATH = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def missing_packages() -> list[str]:
    """List what ``install`` would install.

    Returns:
        Names of Debian packages, sorted.
    """
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *_EXTRA_PATH])
    missing = {package for name, package in PROGRAMS.items() if not shutil.which(name, path=path)}
    if find_spec("ensurepip") is None:
        missing.add("python3-venv")
    return sorted(missing)


def install() -> None:
    """Install what is missing with apt-get.

    Raises:
        VerbError: Something is missing and this is no Debian, or not root, or apt-get fails.
    """
    missing = missing_packages()
    if not missing:
        say("nothing to install: all programs are here")
        return
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    if shutil.which("apt-get") is None:
        raise VerbError(f"no apt-get here; install by hand what Debian calls: {' '.join(missing)}")
    if os.geteuid() != 0:
        raise VerbError(f"only root can install; run: sudo {shlex.join(command)}")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    run("apt-get", "update", "--quiet", environment=quiet, downloads=True)
    with _services_stay_down():
        run(*command, environment=quiet, downloads=True)
    left = missing_packages()
    if left:
        raise VerbError(f"installed, but not found afterwards: {' '.join(left)}")


@contextmanager
def _services_stay_down() -> Iterator[None]:
    # Debian starts a daemon as soon as it is installed, nginx on port 80 among them; a policy
    # that answers 101 is its documented way to say no.
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink(missing_ok=True)
