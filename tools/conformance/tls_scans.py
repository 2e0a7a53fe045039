"""sslyze and testssl: is the default configuration of a TLS listener a good one?"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from typing import TYPE_CHECKING, TypedDict

from conformance.rig import program, say
from conformance.score import Failure, Score, SuiteError

if TYPE_CHECKING:
    from conformance.rig import Rig

__all__ = ["parse_sslyze", "parse_testssl", "run_sslyze", "run_testssl"]

_SECONDS = 900.0
_TARGET = "TlsSettings.intermediate with HTTP/2"
_SSLYZE_BAR = "Mozilla's intermediate profile"
_TESTSSL_BAR = 'no line with "NOT ok"'
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_RATED = frozenset({"OK", "LOW", "MEDIUM", "HIGH", "CRITICAL"})
_REMARKED = ("LOW", "MEDIUM")


class _Finding(TypedDict):
    id: str
    severity: str
    finding: str


def parse_sslyze(text: str, version: str) -> Score:
    """Read what sslyze prints about a profile.

    Args:
        text: Its output.
        version: Its version.

    Returns:
        The score: one case, compliance, with a failure for each complaint.

    Raises:
        SuiteError: The output holds no verdict.
    """
    verdict = re.search(r"^\s*\S+:\d+: (OK|FAILED) - (.*)$", text, re.MULTILINE)
    if verdict is None:
        raise SuiteError(f"sslyze gives no verdict: {text.strip()[-500:]}")
    complaints = re.findall(r"^\s+\* (\w+): (.*)$", text[verdict.end() :], re.MULTILINE)
    failures = tuple(Failure(name, reason.strip()) for name, reason in complaints)
    met = verdict[1] == "OK"
    return Score(
        suite="sslyze",
        target=_TARGET,
        version=version,
        passed=int(met),
        total=1,
        bar=_SSLYZE_BAR,
        is_met=met,
        failures=failures if failures or met else (Failure("profile", verdict[2]),),
    )


def parse_testssl(text: str, findings: str, version: str) -> Score:
    """Read what testssl prints and the findings that it writes.

    Args:
        text: Its output.
        findings: Its JSON file.
        version: Its version.

    Returns:
        The score. Its cases are the findings with a rating; each line that says ``NOT ok`` and
        each finding rated high or worse is a failure.

    Raises:
        SuiteError: The file cannot be read, or nothing is rated in it.
    """
    try:
        found: list[_Finding] = json.loads(findings)
        severities = Counter(each["severity"] for each in found)
        bad = [each for each in found if each["severity"] in {"HIGH", "CRITICAL"}]
        notes = tuple(
            f"rated {each['severity'].lower()}, not as a failure: `{each['id']}` "
            f"{each['finding'].strip(' -') or 'not there'}"
            for each in found
            if each["severity"] in _REMARKED
        )
        failures = [Failure(each["id"], each["finding"].strip()) for each in bad]
    except (ValueError, KeyError, TypeError) as error:
        raise SuiteError(f"testssl: its findings cannot be read: {error!r}") from None
    total = sum(count for severity, count in severities.items() if severity in _RATED)
    if total == 0:
        raise SuiteError("testssl rated nothing")
    lines = [line for line in _COLOURS.sub("", text).splitlines() if "NOT ok" in line]
    passed = total - len(failures)
    if not failures:
        failures = [Failure("output", " ".join(line.split())) for line in lines]
    return Score(
        suite="testssl",
        target=_TARGET,
        version=version,
        passed=passed,
        total=total,
        bar=_TESTSSL_BAR,
        is_met=not failures,
        failures=tuple(failures),
        notes=notes,
    )


def run_sslyze(rig: Rig) -> list[Score]:
    """Hold a TLS listener against the profile.

    Args:
        rig: The run.

    Returns:
        One score.

    Raises:
        SuiteError: The suite is missing or fails.
    """
    sslyze = program("sslyze")
    code = "from importlib.metadata import version; print(version('sslyze'))"
    version = _output([program("python"), "-c", code]).strip()
    with rig.proxy() as proxy:
        say("  sslyze ...")
        command = [sslyze, "--mozilla_config=intermediate", "--certinfo_ca_file"]
        text = _output([*command, str(rig.authority.cert_path), f"localhost:{proxy.tls}"])
    return [parse_sslyze(text, version)]


def run_testssl(rig: Rig) -> list[Score]:
    """Scan a TLS listener.

    Args:
        rig: The run.

    Returns:
        One score.

    Raises:
        SuiteError: The suite is missing or fails.
    """
    testssl = shutil.which("testssl") or shutil.which("testssl.sh")
    if testssl is None:
        raise SuiteError("testssl is not installed (./tools/dev deps)")
    banner = _COLOURS.sub("", _output([testssl, "--version"]))
    found = re.search(r"testssl(?:\.sh)?\s+([0-9][\w.]*)", banner)
    report = rig.directory("testssl") / "findings.json"
    with rig.proxy() as proxy:
        say("  testssl, about a minute ...")
        command = [testssl, "--quiet", "--warnings", "off", "--color", "0", "--ip", "127.0.0.1"]
        command += ["--add-ca", str(rig.authority.cert_path), "--jsonfile", str(report)]
        text = _output([*command, f"localhost:{proxy.tls}"])
    if not report.exists():
        raise SuiteError(f"testssl failed: {text.strip()[-500:]}")
    return [parse_testssl(text, report.read_text(), found[1] if found else "unknown")]


def _output(command: list[str]) -> str:
    # Both exit with something else than 0 when they complain: that is for their output to tell.
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SuiteError(f"{command[0]} does not end") from None
    return done.stdout
