"""What is read out of the outputs of the conformance suites."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from conformance import clients, h2spec, tls_scans, websocket
from conformance.score import Failure, SuiteError

if TYPE_CHECKING:
    from conformance.rig import Engine

_JUNIT = """<?xml version="1.0" encoding="UTF-8"?>
<testsuites>
  <testsuite name="1. Starting HTTP/2" package="generic/1" id="1" tests="1">
    <testcase package="generic/1" classname="Sends a client connection preface" time="0.1"></testcase>
  </testsuite>
  <testsuite name="3.5. Preface" package="http2/3.5" id="3.5" tests="3">
    <testcase package="http2/3.5" classname="Sends a preface" time="0.0002"></testcase>
    <testcase package="http2/3.5" classname="Sends an invalid preface" time="0.0003">
      <failure>GOAWAY Frame
Connection closed</failure>
    </testcase>
    <testcase package="http2/3.5" classname="Sends nothing" time="0.0003">
      <error>Timeout</error>
    </testcase>
  </testsuite>
</testsuites>
"""

_LIST = """# about it
clear h2  http2/3.5/2
clear h2  http2/3.5/3
clear jh2 hpack/4.2/1

tls   h2  http2/6.1/1
"""

_SSLYZE_BAD = """
 COMPLIANCE AGAINST TLS CONFIGURATION
 ------------------------------------

    Checking results against Mozilla's "intermediate" configuration.

    localhost:19443: FAILED - Not compliant.
        * tls_curves: TLS curves {'X448', 'secp521r1'} are supported, but should be rejected.
        * ciphers: Cipher suites {'TLS_RSA'} are supported, but should be rejected.
"""

_H2LOAD = """
finished in 2.58s, 3873.59 req/s, 296.23KB/s
requests: 1000 total, 1000 started, 1000 done, {good} succeeded, {bad} failed, 0 errored, 0 timeout
status codes: {good} 2xx, 0 3xx, 0 4xx, {bad} 5xx
traffic: 764.73KB (783080) total, 156.25KB (160000) headers (space savings 72.41%)
"""


def test_h2spec_cases_are_called_by_section_and_number() -> None:
    """Failures, errors and what was skipped are failures; their texts become one line."""
    report = h2spec.parse_report(_JUNIT)

    assert report.total == 4
    assert report.failures == (
        Failure("http2/3.5/2", "Sends an invalid preface: GOAWAY Frame Connection closed"),
        Failure("http2/3.5/3", "Sends nothing: error: Timeout"),
    )


@pytest.mark.parametrize("text", ["", "not XML", "<testsuites></testsuites>"])
def test_an_empty_h2spec_report_is_refused(text: str) -> None:
    """A report without cases is no success."""
    with pytest.raises(SuiteError, match="h2spec: its report"):
        h2spec.parse_report(text)


def test_known_failures_are_read_by_way_and_engine() -> None:
    """Comments and lines about others do not count."""
    assert h2spec.listed(_LIST, tls=False, engine="h2") == {"http2/3.5/2", "http2/3.5/3"}
    assert h2spec.listed(_LIST, tls=True, engine="h2") == {"http2/6.1/1"}
    assert h2spec.listed(_LIST, tls=True, engine="jh2") == frozenset()


@pytest.mark.parametrize(
    ("cases", "engine", "met"),
    [
        (["a", "b"], "h2", True),
        (["a", "b", "c"], "h2", False),
        (["new"], "h2", False),
        (["a", "b", "c"], "jh2", True),
        (["a", "new"], "jh2", False),
    ],
)
def test_the_bar_of_h2spec(
    monkeypatch: pytest.MonkeyPatch,
    cases: list[str],
    engine: Engine,
    met: bool,
) -> None:
    """With the default engine at most two may fail; with any, only what is listed."""
    monkeypatch.setattr(h2spec, "listed", lambda _, **__: frozenset("abc"))
    report = h2spec.Report(146, tuple(Failure(case, "text") for case in cases))

    score = h2spec.score(report, tls=True, engine=engine)

    assert score.is_met is met
    assert (score.passed, score.total) == (146 - len(cases), 146)
    assert score.notes == (("not on the list: new",) if "new" in cases else ())


def test_kosoku_verdicts_are_read() -> None:
    """Each case has two verdicts: on its messages, and on the end of its connection."""
    case = {"behavior": "OK", "behaviorClose": "UNCLEAN", "duration": 2}

    assert websocket.parse_index(json.dumps({"agent": {"1.1.1": case}})) == {"1.1.1": "OK, UNCLEAN"}
    for text in ("", "[]", "{}", '{"agent": {"1.1.1": {}}}'):
        with pytest.raises(SuiteError, match="kosoku: its index"):
            websocket.parse_index(text)


def test_only_a_changed_verdict_counts_against_the_proxy() -> None:
    """What fails without the proxy may fail behind it; cases that are missing may not."""
    direct = {"1.1.1": "OK, OK", "1.1.10": "FAILED, OK", "1.1.2": "OK, OK", "2.1": "OK, OK"}
    same = websocket.compare("over HTTP", "0.1", direct, dict(direct))
    changed = websocket.compare(
        "over HTTP", "0.1", direct, {**direct, "1.1.10": "OK, OK", "1.1.2": "FAILED, OK"}
    )
    fewer = websocket.compare("over HTTP", "0.1", direct, {"1.1.1": "OK, OK"})

    assert same.is_met
    assert same.notes == ("the origin alone passes 3 of 4, all but 1.1.10",)
    assert [failure.case for failure in changed.failures] == ["1.1.2", "1.1.10"]
    assert not changed.is_met
    assert (fewer.passed, fewer.total) == (1, 4)


def test_sslyze_tells_what_does_not_comply() -> None:
    """Its verdict counts; each complaint is a failure."""
    good = tls_scans.parse_sslyze("    localhost:1: OK - Compliant.\n", "6.3")
    bad = tls_scans.parse_sslyze(_SSLYZE_BAD, "6.3")

    assert good.is_met
    assert not bad.is_met
    assert [failure.case for failure in bad.failures] == ["tls_curves", "ciphers"]
    assert bad.failures[0].text.startswith("TLS curves {'X448'")
    with pytest.raises(SuiteError, match="no verdict"):
        tls_scans.parse_sslyze("could not connect", "6.3")


def _finding(name: str, severity: str) -> dict[str, str]:
    return {"id": name, "severity": severity, "finding": f" about {name} "}


def test_testssl_findings_rated_high_are_failures() -> None:
    """Information is not counted, low ratings are only told."""
    found = [_finding("a", "OK"), _finding("b", "INFO"), _finding("c", "LOW")]
    good = tls_scans.parse_testssl("fine (OK)", json.dumps(found), "3.0")
    bad = tls_scans.parse_testssl("no (NOT ok)", json.dumps([*found, _finding("d", "HIGH")]), "3.0")

    assert good.is_met
    assert (good.passed, good.total) == (2, 2)
    assert good.notes == ("rated low, not as a failure: `c` about c",)
    assert not bad.is_met
    assert bad.failures == (Failure("d", "about d"),)


def test_a_testssl_line_that_says_not_ok_is_a_failure() -> None:
    """Even when no finding is rated high; colours do not hide it."""
    text = " Has server cipher order?     no (\x1b[1;31mNOT ok\x1b[m)\n"

    score = tls_scans.parse_testssl(text, json.dumps([_finding("a", "OK")]), "3.0")

    assert not score.is_met
    assert score.failures == (Failure("output", "Has server cipher order? no (NOT ok)"),)


@pytest.mark.parametrize("text", ["", "{", "[]", '[{"id": "a"}]'])
def test_testssl_without_findings_is_refused(text: str) -> None:
    """A scan that rated nothing is no success."""
    with pytest.raises(SuiteError, match="testssl"):
        tls_scans.parse_testssl("", text, "3.0")


def test_h2load_counts_answers_by_status() -> None:
    """Only 2xx is a success."""
    good = clients.parse_h2load("in clear", _H2LOAD.format(good=1000, bad=0), "1.52")
    bad = clients.parse_h2load("in clear", _H2LOAD.format(good=990, bad=10), "1.52")

    assert good.is_met
    assert (good.target, good.passed) == ("h2load, in clear", 1000)
    assert not bad.is_met
    assert bad.failures[0].text.endswith("status codes: 990 2xx, 0 3xx, 0 4xx, 10 5xx")
    with pytest.raises(SuiteError, match="no totals"):
        clients.parse_h2load("in clear", "could not connect", "1.52")


def test_nghttp_wants_every_stream_answered_and_none_reset() -> None:
    """A reset stream is a failure even where the count is right."""
    line = "[  0.003] recv (stream_id={}) :status: 200\n"
    fine = "".join(line.format(number) for number in (1, 3, 5))
    reset = f"{fine}[  0.004] recv RST_STREAM frame <length=4, flags=0x00, stream_id=5>\n"

    assert clients.parse_nghttp("x", fine, "1.52", 3).is_met
    assert not clients.parse_nghttp("x", fine, "1.52", 4).is_met
    assert [each.case for each in clients.parse_nghttp("x", reset, "1.52", 3).failures] == [
        "frames"
    ]
