"""http-cache-tests: does the cache do what RFC 9111 asks, and what it allows?"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from bench.process import BenchError, free_port
from bench.servers import Site, nginx
from conformance.score import Failure, Score, SuiteError
from devtool.nodejs import CACHE_TESTS, SCRIPTS, are_cache_tests_current
from devtool.shell import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from conformance.rig import Rig

__all__ = [
    "LIST",
    "Case",
    "Report",
    "listed",
    "nginx_cache",
    "nginx_scores",
    "parse_report",
    "pingora_cache",
    "run",
    "scores",
]

LIST: Final = ROOT / "tests" / "conformance" / "cache_tests_failures.txt"
_EXAMPLE: Final = ROOT / "examples" / "cdn.py"
_SUITE: Final = "cache_tests"
_TARGETED: Final = "targeted"
_LEAST: Final = {"required": 135, "optimal": 65}
_LEAST_TARGETED: Final = 20
_TARGETED_NAME: Final = "CDN-Cache-Control (cases of our own)"
# What must be right whatever else is not: who gets to see what, and what is true any more.
_STRICT_SUITES: Final = frozenset({"auth", "invalidation", "update304", "vary", "vary-parse"})
_STRICT_CASES: Final = re.compile("no-store|private")
_STRICT_NAME: Final = "no-store, private, Authorization, Vary, invalidation, 304"

# What the suite itself sets up for nginx.
_NGINX_CACHE: Final = """
  proxy_cache_path {directory}/cache levels=1:2 keys_zone=cache:8m max_size=100m inactive=600m;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://127.0.0.1:{origin};
      proxy_cache cache;
      proxy_cache_revalidate on;
    }}
  }}
"""


@dataclass(frozen=True, slots=True)
class Case:
    """One case and how it went.

    Attributes:
        name: The suite's name for it.
        group: The group that it belongs to.
        kind: ``required`` by the RFC; ``optimal`` where it allows to reuse a response; ``check``
            where there is no right or wrong.
        title: What it is about.
        failure: What was wrong; empty if nothing was.
    """

    name: str
    group: str
    kind: str
    title: str
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What the suite found.

    Attributes:
        version: Its version.
        cases: All cases that were run.
    """

    version: str
    cases: tuple[Case, ...]

    def of(self, kind: str, *, targeted: bool = False) -> list[Case]:
        """Choose cases.

        Args:
            kind: Of which kind.
            targeted: Whether those about ``CDN-Cache-Control``, which are our own, or the others.

        Returns:
            The cases.
        """
        return [
            case
            for case in self.cases
            if case.kind == kind and (case.group == _TARGETED) is targeted
        ]


def parse_report(text: str) -> Report:
    """Read what ``run.mjs`` prints.

    Args:
        text: Its output.

    Returns:
        What it says.

    Raises:
        SuiteError: It makes no sense, or there are no cases.
    """
    try:
        found = json.loads(text)
        cases = tuple(
            Case(case["id"], case["suite"], case["kind"], case["name"], _failure(case["result"]))
            for case in found["cases"]
        )
        version = str(found["version"])
    except (ValueError, KeyError, TypeError):
        raise SuiteError(f"http-cache-tests print no results: {text.strip()[-500:]}") from None
    if not cases:
        raise SuiteError("http-cache-tests print no results: there are no cases")
    return Report(version, cases)


def _failure(result: bool | Sequence[str]) -> str:  # noqa: FBT001 - as it is in JSON
    return "" if result is True else ": ".join(result or ["failed"])


def listed(text: str) -> dict[str, str]:
    """Read which cases are known to fail.

    Args:
        text: The list: a paragraph for each reason, first lines that begin with ``#`` and tell it,
            then lines of kind and case.

    Returns:
        The reason by the name of the case.
    """
    reasons = {}
    for paragraph in text.split("\n\n"):
        lines = paragraph.splitlines()
        reason = " ".join(line.removeprefix("#").strip() for line in lines if line[:1] == "#")
        reasons.update({line.split()[1]: reason for line in lines if line[:1] not in {"#", ""}})
    return reasons


def run(port: int, cases: Iterable[str] = (), *, seconds: float = 120.0) -> Report:
    """Run the suite against a cache of this machine that is in front of its origin.

    Args:
        port: Its port on 127.0.0.1.
        cases: Names of those to run; none for all.
        seconds: Longest time it may take.

    Returns:
        What was found.

    Raises:
        SuiteError: The suite is missing or fails.
    """
    _require()
    url = f"http://127.0.0.1:{port}"
    command = ["node", str(SCRIPTS / "run.mjs"), str(CACHE_TESTS), url, *cases]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise SuiteError("http-cache-tests do not end") from None
    if done.returncode != 0:
        raise SuiteError(f"http-cache-tests failed: {done.stderr.strip()[-500:]}")
    return parse_report(done.stdout)


def _require() -> None:
    if not are_cache_tests_current():
        raise SuiteError("http-cache-tests are not installed (./tools/dev deps)")


@contextlib.contextmanager
def _origin(rig: Rig) -> Iterator[int]:
    _require()
    port = free_port()
    command = ["node", str(SCRIPTS / "origin.mjs"), str(CACHE_TESTS), str(port)]
    with rig.server("cache-tests-origin", command, port):
        yield port


@contextlib.contextmanager
def pingora_cache(rig: Rig) -> Iterator[int]:
    """Run ``examples/cdn.py`` in front of the suite's origin until the end of the block.

    In memory, and with ``--set-cookie store``: the RFC has no exception for cookies, and the suite
    knows none. Everything else is as it comes.

    Args:
        rig: The run.

    Yields:
        Its port.
    """
    with _origin(rig) as origin:
        port = free_port()
        addresses = (f"127.0.0.1:{origin}", "--listen", f"127.0.0.1:{port}")
        command = [sys.executable, str(_EXAMPLE), *addresses, "--set-cookie", "store"]
        with rig.server("cdn", command, port) as running:
            yield port
            running.check_alive()


@contextlib.contextmanager
def nginx_cache(rig: Rig) -> Iterator[int]:
    """Run nginx with ``proxy_cache`` in front of the suite's origin until the end of the block.

    Args:
        rig: The run.

    Yields:
        Its port.
    """
    with _origin(rig) as origin:
        site = Site(rig.directory("nginx-cache"), free_port(), origin)
        config = _NGINX_CACHE.format(directory=site.directory, port=site.port, origin=site.origin)
        with rig.server("nginx-cache", nginx(site, config), site.port):
            yield site.port


def scores(report: Report, known: Mapping[str, str]) -> list[Score]:
    """Hold a report of our cache against the bars.

    Args:
        report: What was found.
        known: Which cases are known to fail, and why.

    Returns:
        A score for each bar.
    """
    strict = [case for case in report.of("required") if _is_strict(case)]
    targeted = [*report.of("required", targeted=True), *report.of("optimal", targeted=True)]
    bars = [
        *(
            _Bar(kind, f"at least {least}, all failures listed", report.of(kind), least)
            for kind, least in _LEAST.items()
        ),
        _Bar(_STRICT_NAME, "no required one fails", strict, len(strict)),
        _Bar(_TARGETED_NAME, f"at least {_LEAST_TARGETED}", targeted, _LEAST_TARGETED),
    ]
    return [_score(bar, known, report.version) for bar in bars]


class _Bar(NamedTuple):
    target: str
    text: str
    cases: Sequence[Case]
    least: int


def _is_strict(case: Case) -> bool:
    return case.group in _STRICT_SUITES or _STRICT_CASES.search(case.name) is not None


def _score(bar: _Bar, known: Mapping[str, str], version: str) -> Score:
    failed = [case for case in bar.cases if case.failure]
    new = [case.name for case in failed if case.name not in known]
    passed = len(bar.cases) - len(failed)
    return Score(
        suite=_SUITE,
        target=bar.target,
        version=version,
        passed=passed,
        total=len(bar.cases),
        bar=bar.text,
        is_met=not new and passed >= bar.least,
        failures=tuple(
            Failure(case.name, known.get(case.name) or f"{case.title}: {case.failure}")
            for case in failed
        ),
        notes=(f"not on the list: {', '.join(new)}",) if new else (),
    )


def nginx_scores(report: Report) -> list[Score]:
    """Tell how nginx does, for comparison.

    Args:
        report: What was found.

    Returns:
        Scores without a bar.
    """
    name = f"nginx {_nginx_version()}, proxy_cache"
    rows = [(kind, report.of(kind)) for kind in _LEAST]
    return [
        Score(
            suite=_SUITE,
            target=f"{name}: {kind}",
            version=report.version,
            passed=sum(not case.failure for case in cases),
            total=len(cases),
            bar="none: for comparison",
            is_met=True,
        )
        for kind, cases in rows
    ]


def _nginx_version() -> str:
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise BenchError("nginx is not installed (./tools/dev deps)")
    done = subprocess.run([program, "-v"], capture_output=True, text=True, check=False, timeout=10)
    found = re.search(r"nginx/([0-9.]+)", done.stderr)
    return found[1] if found else "of unknown version"
