"""h2spec: does the server speak HTTP/2 as RFC 7540 and RFC 7541 say?"""

from __future__ import annotations

import re
import subprocess
import tempfile
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conformance.score import Failure, Score, SuiteError
from devtool.golang import H2SPEC, MODULE
from devtool.shell import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conformance.rig import Engine

__all__ = ["LIST", "MOST_FAILURES", "Report", "listed", "parse_report", "run", "score", "version"]

LIST = ROOT / "tests" / "conformance" / "h2spec_failures.txt"
MOST_FAILURES = 2
_DEFAULT: Engine = "h2"
_SECONDS_PER_CASE = 5


@dataclass(frozen=True, slots=True)
class Report:
    """What h2spec found.

    Attributes:
        total: Cases.
        failures: Those that failed or were skipped, in their order.
    """

    total: int
    failures: tuple[Failure, ...]


def parse_report(text: str) -> Report:
    """Read the report that h2spec writes for JUnit.

    A case is called by its section and its number there: ``http2/5.1.2/1``.

    Args:
        text: The file.

    Returns:
        What it says.

    Raises:
        SuiteError: It is no such report, or one without cases.
    """
    try:
        root = ET.fromstring(text)  # noqa: S314  # h2spec wrote it a moment ago
    except ET.ParseError as error:
        raise SuiteError(f"h2spec: its report cannot be read: {error}") from None
    total = 0
    failures: list[Failure] = []
    for suite in root.iter("testsuite"):
        for number, case in enumerate(suite.findall("testcase"), start=1):
            total += 1
            name = f"{case.get('package')}/{number}"
            failures.extend(_failures_of(name, case))
    if total == 0:
        raise SuiteError("h2spec: its report has no cases")
    return Report(total, tuple(failures))


def _failures_of(name: str, case: ET.Element) -> Iterator[Failure]:
    for tag in ("failure", "error", "skipped"):
        found = case.find(tag)
        if found is not None:
            text = " ".join((found.text or "no reason given").split())
            kind = "" if tag == "failure" else f"{tag}: "
            yield Failure(name, f"{case.get('classname')}: {kind}{text}")


def listed(text: str, *, tls: bool, engine: Engine) -> frozenset[str]:
    """Read which cases are known to fail.

    Args:
        text: The list: lines of way, engine and case, and comments.
        tls: Which way: over TLS, or in clear.
        engine: Which HTTP/2 library.

    Returns:
        Names of cases.
    """
    lines = (line.split() for line in text.splitlines() if not line.startswith("#"))
    wanted = ["tls" if tls else "clear", engine]
    return frozenset(words[2] for words in lines if words[:2] == wanted)


def run(port: int, *, path: str, tls: bool, seconds: float = 800.0) -> Report:
    """Run all cases, the strict ones too, against a server of this machine.

    Args:
        port: Its port on 127.0.0.1.
        path: What is asked for: must be answered with 200 and a body, after the request's end.
        tls: Whether it speaks TLS, with ALPN; otherwise HTTP/2 by prior knowledge.
        seconds: Longest time it may take.

    Returns:
        What was found.

    Raises:
        SuiteError: h2spec is missing or fails.
    """
    with tempfile.TemporaryDirectory(prefix="pingora-h2spec-") as directory:
        report = Path(directory) / "report.xml"
        command = [
            *(str(H2SPEC), "--strict", "--host", "127.0.0.1", "--port", str(port)),
            *("--path", path, "--timeout", str(_SECONDS_PER_CASE), "--junit-report", str(report)),
            *(["--tls", "--insecure"] if tls else []),
        ]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=seconds, check=False
            )
        except FileNotFoundError:
            raise SuiteError("h2spec is not installed (./tools/dev deps)") from None
        except subprocess.TimeoutExpired:
            raise SuiteError("h2spec does not end") from None
        if not report.exists():
            raise SuiteError(f"h2spec failed: {(done.stderr or done.stdout).strip()[-500:]}")
        return parse_report(report.read_text())


def score(report: Report, *, tls: bool, engine: Engine) -> Score:
    """Hold a report against the bar.

    Every failure must be on the list. With the default engine there may be few; what the library
    behind another one does wrong is told, and must not become more.

    Args:
        report: What was found.
        tls: Which way: over TLS, or in clear.
        engine: The HTTP/2 library that the proxy used.

    Returns:
        The score.
    """
    known = listed(LIST.read_text(), tls=tls, engine=engine)
    new = [failure.case for failure in report.failures if failure.case not in known]
    is_default = engine == _DEFAULT
    return Score(
        suite="h2spec",
        target=f"HTTP/2 {'over TLS' if tls else 'in clear'}, engine {engine}",
        version=version(),
        passed=report.total - len(report.failures),
        total=report.total,
        bar=f"at most {MOST_FAILURES} failed, all listed" if is_default else "none but the listed",
        is_met=not new and (len(report.failures) <= MOST_FAILURES or not is_default),
        failures=report.failures,
        notes=(f"not on the list: {', '.join(new)}",) if new else (),
    )


def version() -> str:
    """Tell which release is used.

    Returns:
        Its number.

    Raises:
        SuiteError: The module does not say.
    """
    found = re.search(r"summerwind/h2spec v([0-9.]+)", (MODULE / "go.mod").read_text())
    if found is None:
        raise SuiteError("h2spec: go.mod names no version")
    return found[1]
