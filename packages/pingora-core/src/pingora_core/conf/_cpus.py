"""How many CPUs the process may use: what its affinity and its control group leave of them."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["usable_cpus"]

_ROOT: Final = Path("/")


def usable_cpus(root: Path = _ROOT) -> int:
    """Count the CPUs that the process may use.

    A container that is given two CPUs' worth of time on a machine of 64 sees all 64 of them; a
    worker for each would be throttled most of the time. So the quota counts, too.

    Args:
        root: Where ``proc`` and ``sys`` are.

    Returns:
        At least 1.
    """
    cpus = len(os.sched_getaffinity(0))
    return max(1, math.ceil(min([cpus, *_quotas(root)])))


def _quotas(root: Path) -> Iterator[float]:
    # A limit of a group counts for all groups below it. Within a container the file names groups
    # of the machine outside that are not to be seen; then the mount point itself is our group.
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        mount = root / "sys/fs/cgroup"
        if number != "0" and "cpu" not in controllers.split(","):
            continue
        if number != "0":
            mount /= "cpu"
        place = mount / group.lstrip("/")
        for folder in (place, *place.parents):
            if not folder.is_relative_to(mount):
                break
            with suppress(OSError, ValueError, ZeroDivisionError):
                yield _read_quota(folder, is_unified=number == "0")


def _read_quota(folder: Path, *, is_unified: bool) -> float:
    # As CPUs: time that may be used in a period, by its length. No limit is "max", or negative.
    if is_unified:
        used, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        return int(used) / int(period)
    used = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii")
    if int(used) < 0:
        return math.inf
    return int(used) / int((folder / "cpu.cfs_period_us").read_text(encoding="ascii"))
