"""kosoku: the WebSocket cases of Autobahn, seen through the proxy as without it.

What counts is that the proxy changes no verdict: what an origin does badly, it does badly behind
the proxy too.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypedDict

from bench.process import free_port
from conformance.rig import program, say
from conformance.score import Failure, Score, SuiteError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from conformance.rig import Rig

__all__ = ["SLOW_CASES", "compare", "parse_index", "run"]

SLOW_CASES = ("9.*", "12.*", "13.*")
"""Long messages, and compression of very many."""

_HERE = Path(__file__).resolve().parent
_PARALLEL = 4
_SECONDS = 1500.0
_GOOD = frozenset({"OK", "NON-STRICT", "INFORMATIONAL"})
_BAR = "each verdict as without the proxy"
_Verdicts: TypeAlias = dict[str, str]


class _Case(TypedDict):
    behavior: str
    behaviorClose: str


def parse_index(text: str) -> _Verdicts:
    """Read the index of the reports that kosoku writes.

    Args:
        text: The file.

    Returns:
        For each case the verdicts on its messages and on the end of its connection.

    Raises:
        SuiteError: It is no such index, or one without cases.
    """
    try:
        agents: dict[str, dict[str, _Case]] = json.loads(text)
        verdicts = {
            name: f"{case['behavior']}, {case['behaviorClose']}"
            for cases in agents.values()
            for name, case in cases.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SuiteError(f"kosoku: its index cannot be read: {error!r}") from None
    if not verdicts:
        raise SuiteError("kosoku: its index has no cases")
    return verdicts


def compare(
    target: str, version: str, direct: Mapping[str, str], proxied: Mapping[str, str]
) -> Score:
    """Hold the verdicts behind the proxy against those without it.

    Args:
        target: What was tested.
        version: The suite's.
        direct: Verdicts without the proxy.
        proxied: Verdicts behind it.

    Returns:
        The score: a case has passed when it has the same verdict.
    """
    cases = sorted(direct.keys() | proxied.keys(), key=_order)
    failures = tuple(
        Failure(case, f"{direct.get(case, 'not run')} directly, {proxied.get(case, 'not run')}")
        for case in cases
        if direct.get(case) != proxied.get(case)
    )
    bad = [case for case in cases if not _GOOD.issuperset(direct.get(case, "").split(", "))]
    fine = f"the origin alone passes {len(direct) - len(bad)} of {len(direct)}"
    return Score(
        suite="websocket",
        target=target,
        version=version,
        passed=len(cases) - len(failures),
        total=len(cases),
        bar=_BAR,
        is_met=not failures,
        failures=failures,
        notes=(f"{fine}, all but {', '.join(bad)}" if bad else fine,),
    )


def run(rig: Rig, *, quick: bool) -> list[Score]:
    """Run the cases against an origin, against the proxy, and against the proxy over TLS.

    Args:
        rig: The run.
        quick: Whether the slow cases are left out.

    Returns:
        A score for each way through the proxy.

    Raises:
        SuiteError: The suite is missing or fails.
    """
    version = _version()
    excluded = SLOW_CASES if quick else ()
    port = free_port()
    echo = [sys.executable, str(_HERE / "echo_origin.py"), str(port)]
    with rig.server("echo", echo, port), rig.proxy(origin_port=port) as proxy:
        direct = _verdicts(rig, port, excluded)
        plain = compare("over HTTP", version, direct, _verdicts(rig, proxy.plain, excluded))
        relay = free_port()
        command = [
            *(sys.executable, str(_HERE / "tls_relay.py"), str(relay), str(proxy.tls)),
            str(rig.authority.cert_path),
        ]
        with rig.server("relay", command, relay):
            tls = compare("over TLS", version, direct, _verdicts(rig, relay, excluded))
    return [plain, tls]


def _verdicts(rig: Rig, port: int, excluded: Sequence[str]) -> _Verdicts:
    directory = rig.directory("kosoku")
    command = [program("kosoku"), "--mode", "fuzzingclient", "--outdir", str(directory)]
    command += ["--parallelism", str(_PARALLEL)]
    for case in excluded:
        command += ["--exclude", case]
    say(f"  kosoku on port {port} ...")
    try:
        # It exits with 1 when a case fails: that is for its index to tell.
        done = subprocess.run(
            [*command, f"127.0.0.1:{port}"],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SuiteError("kosoku does not end") from None
    index = directory / "index.json"
    if not index.exists():
        raise SuiteError(f"kosoku failed: {(done.stderr or done.stdout).strip()[-500:]}")
    return parse_index(index.read_text())


def _version() -> str:
    python = program("python")
    code = "from importlib.metadata import version; print(version('kosoku'))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _order(case: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", case)]
