"""nghttp and h2load: are many requests at once, on many connections, all answered?"""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

from conformance.rig import PATH, say
from conformance.score import Failure, Score, SuiteError

if TYPE_CHECKING:
    from conformance.rig import Rig

__all__ = ["parse_h2load", "parse_nghttp", "run"]

_CONNECTIONS = 100
_STREAMS = 10
_REQUESTS = 10_000
_SECONDS = 120.0


def parse_h2load(target: str, text: str, version: str) -> Score:
    """Read what h2load prints at its end.

    Args:
        target: What was tested.
        text: Its output.
        version: Its version.

    Returns:
        The score: a request has passed when it was answered with a status of 200 to 299.

    Raises:
        SuiteError: The output has no totals.
    """
    totals = re.search(r"^requests: (\d+) total, .*$", text, re.MULTILINE)
    good = re.search(r"^status codes: (\d+) 2xx, .*$", text, re.MULTILINE)
    if totals is None or good is None:
        raise SuiteError(f"h2load gives no totals: {text.strip()[-500:]}")
    total, passed = int(totals[1]), int(good[1])
    failures = () if passed == total else (Failure("requests", f"{totals[0]}; {good[0]}"),)
    return _score(f"h2load, {target}", version, (passed, total), failures)


def parse_nghttp(target: str, text: str, version: str, wanted: int) -> Score:
    """Read what nghttp prints about frames.

    Args:
        target: What was tested.
        text: Its output, verbose.
        version: Its version.
        wanted: Requests that were made.

    Returns:
        The score: a request has passed when its status was 200 and its stream ended in order.
    """
    good = len(re.findall(r":status: 200\b", text))
    broken = re.findall(
        r"^.*(?:\[ERROR\]|recv (?:RST_STREAM|GOAWAY)|INVALID).*$", text, re.MULTILINE
    )
    failures = tuple(Failure("frames", " ".join(line.split())) for line in broken)
    if good != wanted:
        failures += (Failure("requests", f"{good} of {wanted} answered with 200"),)
    return _score(f"nghttp, {target}", version, (good, wanted), failures)


def run(rig: Rig) -> list[Score]:
    """Make many requests over HTTP/2, in clear and over TLS.

    Args:
        rig: The run.

    Returns:
        A score for each program and way.

    Raises:
        SuiteError: A program is missing or fails.
    """
    scores = []
    with rig.proxy() as proxy:
        ways = {
            "HTTP/2 in clear": f"http://127.0.0.1:{proxy.plain}{PATH}",
            "HTTP/2 over TLS": f"https://127.0.0.1:{proxy.tls}{PATH}",
        }
        upload = rig.directory("upload") / "body"
        upload.write_bytes(b"x" * 300_000)
        for target, url in ways.items():
            say(f"  h2load and nghttp, {target} ...")
            command = ["h2load", f"-n{_REQUESTS}", f"-c{_CONNECTIONS}", f"-m{_STREAMS}", url]
            scores.append(parse_h2load(target, _output(command), _version("h2load")))
            command = ["nghttp", "--null-out", "--verbose", "--no-verify-peer"]
            command += [f"--multiply={_STREAMS}", f"--data={upload}", url]
            text = _output(command)
            scores.append(parse_nghttp(f"uploads, {target}", text, _version("nghttp"), _STREAMS))
    return scores


def _score(
    target: str, version: str, counts: tuple[int, int], failures: tuple[Failure, ...]
) -> Score:
    return Score(
        suite="clients",
        target=target,
        version=version,
        passed=counts[0],
        total=counts[1],
        bar="every request answered with 200",
        is_met=not failures,
        failures=failures,
    )


def _version(name: str) -> str:
    return _output([name, "--version"]).rpartition("/")[2].strip() or "unknown"


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except FileNotFoundError:
        raise SuiteError(f"{command[0]} is not installed (./tools/dev deps)") from None
    except subprocess.TimeoutExpired:
        raise SuiteError(f"{command[0]} does not end") from None
    return done.stdout + done.stderr
