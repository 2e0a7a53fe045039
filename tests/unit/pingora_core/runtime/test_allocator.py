"""The allocator keeps what was freed, up to its limit."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Prints how many MiB stay resident after 32 pieces of 1 MiB were allocated and freed.
_SCRIPT = """
import sys
from pingora_core.runtime.allocator import keep_freed_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 >> 20

if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit("no allocator to tell")
before = resident()
pieces = [bytes(bytearray(b"x" * (1 << 20))) for _ in range(32)]
del pieces
print(resident() - before)
"""


def _kept(mode: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, mode], capture_output=True, text=True, check=False
    )
    if "no allocator" in done.stderr:
        pytest.skip("needs glibc")
    return int(done.stdout)


def test_freed_memory_stays() -> None:
    """Large pieces that were freed stay with the process instead of going back one by one."""
    assert _kept("keep") > 20
    assert _kept("default") < 10
