"""A program and its configuration: checked, overridden by the environment, changed at run time."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.client import RawClient
from tests.support.process import ROOT, ServerProcess

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLE = ROOT / "examples" / "configured.py"
CONF = ROOT / "examples" / "configured.yaml"


def check(path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the example with ``-t``."""
    return subprocess.run(
        [sys.executable, str(EXAMPLE), "-t", "-c", str(path)],
        env={"PATH": "/usr/bin:/bin", **variables},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


async def ask(address: str) -> bytes:
    async with await RawClient.connect(address) as client:
        response = await client.request("GET", "/", [], b"")
    return response.body


def test_the_file_beside_the_example_is_valid() -> None:
    """-t says so; that the address may be in use is no mistake."""
    done = check(CONF)

    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith(f"configuration is valid: {CONF}\n")


@pytest.mark.parametrize(
    ("text", "variables", "problems"),
    [
        ("greeting: {listen: []}", {}, ["greeting.listen: got [], allowed: a list of HOST:PORT"]),
        ("greeting: {listen: [a:1], times: 11}", {}, ["greeting.times: got 11, allowed: a whole"]),
        ("", {"PINGORA_WORKERS": "x"}, ["environment variable PINGORA_WORKERS: got 'x', allowed"]),
        (
            "ca_file: /no/ca.pem\nworkers: 2\nworker_cpu_affinity: [[65535]]",
            {},
            ["ca_file: got '/no/ca.pem', allowed: ", "worker_cpu_affinity[0][0]: got 65535, allo"],
        ),
        (
            "greeting: {listen: ['192.0.2.1:80', '127.0.0.1:99999']}",
            {},
            ["got '192.0.2.1:80', allowed: an address of this machine", "got '127.0.0.1:99999'"],
        ),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(
    tmp_path: Path, text: str, variables: dict[str, str], problems: list[str]
) -> None:
    """All of it, as far as it can be found at once."""
    path = tmp_path / "conf.yaml"
    path.write_text(text)

    done = check(path, **variables)

    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("configured.py: error: ")
    assert [problem for problem in problems if problem not in last] == []


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_file_changes_while_the_program_runs(tmp_path: Path, workers: int) -> None:
    """What is right is taken over without a restart, what is wrong changes nothing."""
    path = tmp_path / "conf.yaml"
    text = f"workers: {workers}\ngreeting: {{listen: ['127.0.0.1:0'], text: TEXT}}\n"
    path.write_text(text.replace("TEXT", "one"))
    async with ServerProcess(str(EXAMPLE), "-c", str(path)) as server:
        host, port = await server.running()
        address = f"{host}:{port}"
        assert await ask(address) == b"one\n"

        path.write_text(text.replace("TEXT", "two") + "user: nobody\n")
        server.send(signal.SIGHUP)
        await server.line_with("needs a restart or an upgrade: user; for the application: greeting")
        for _ in range(workers):
            await server.line_with("the new configuration is in use")
        assert {await ask(address) for _ in range(8)} == {b"two\n"}

        path.write_text(text.replace("TEXT", "three") + "max_retries: 0\n")
        server.send(signal.SIGHUP)
        await server.line_with(f"{path}: max_retries: got 0, allowed: a whole number of at least 1")
        path.write_text(text.replace("TEXT", "[4]"))
        server.send(signal.SIGHUP)
        await server.line_with("greeting.text: got [4], allowed: ")
        assert {await ask(address) for _ in range(8)} == {b"two\n"}

        server.send(signal.SIGTERM)
        async with asyncio.timeout(30):
            assert await server.wait() == 0
