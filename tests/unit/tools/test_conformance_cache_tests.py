"""What is read out of the results of http-cache-tests, and held against which bars."""

from __future__ import annotations

import json
import shutil

import pytest

from conformance import cache_tests
from conformance.cache_tests import Case, Report
from conformance.score import SuiteError
from devtool import nodejs
from devtool.shell import VerbError

_LIST = """# Of two
# reasons.
required age-parse-a
required age-parse-b

# Another one.
optimal method-POST
"""


def _case(name: str, kind: str = "required", group: str = "other", failure: str = "") -> Case:
    return Case(name, group, kind, f"the title of {name}", failure)


def test_results_are_read() -> None:
    """A case has passed if the suite says true; else its kind of failure and reason are told."""
    fields = {"suite": "vary", "kind": "required", "name": "A title"}
    results = [True, ["Setup", "retry"], ["Assertion", "Response 2 comes from cache"], []]
    cases = [
        {"id": str(number), "result": result, **fields} for number, result in enumerate(results)
    ]

    report = cache_tests.parse_report(json.dumps({"version": "0.4.5", "cases": cases}))

    assert report.version == "0.4.5"
    assert report.cases[0] == Case("0", "vary", "required", "A title")
    assert [case.failure for case in report.cases] == [
        "",
        "Setup: retry",
        "Assertion: Response 2 comes from cache",
        "failed",
    ]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"version": "1", "cases": []}', '{"version": "1", "cases": [{}]}']
)
def test_what_is_no_result_is_refused(text: str) -> None:
    """An output without cases is no success."""
    with pytest.raises(SuiteError, match="http-cache-tests print no results"):
        cache_tests.parse_report(text)


def test_known_failures_have_reasons() -> None:
    """A reason stands above the cases that it is for, on one line or more."""
    assert cache_tests.listed(_LIST) == {
        "age-parse-a": "Of two reasons.",
        "age-parse-b": "Of two reasons.",
        "method-POST": "Another one.",
    }
    known = cache_tests.listed(cache_tests.LIST.read_text())
    assert known
    assert all(known.values())


def test_the_bars() -> None:
    """Each has its cases: by kind, those about who sees what, and those about the targeted field."""
    report = Report(
        "0.4.5",
        (
            *(_case(f"required-{number}") for number in range(135)),
            *(_case(f"optimal-{number}", "optimal") for number in range(65)),
            *(_case(f"targeted-{number}", group="targeted") for number in range(10)),
            *(_case(f"targeted-o{number}", "optimal", "targeted") for number in range(10)),
            _case("cc-resp-no-store"),
            _case("vary-match", group="vary", failure="from cache"),
            _case("vary-optimal", "optimal", "vary", "not from cache"),
            _case("check", "check", failure="no"),
        ),
    )

    required, optimal, strict, targeted = cache_tests.scores(report, {"vary-match": "a reason"})

    assert (required.passed, required.total, required.is_met) == (136, 137, True)
    assert [failure.text for failure in required.failures] == ["a reason"]
    assert (optimal.passed, optimal.total, optimal.is_met) == (65, 66, False)
    assert optimal.notes == ("not on the list: vary-optimal",)
    assert (strict.passed, strict.total, strict.is_met) == (1, 2, False)
    assert (targeted.passed, targeted.total, targeted.is_met) == (20, 20, True)


def test_where_node_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said what is needed, before anything is tried."""
    monkeypatch.setattr(shutil, "which", lambda _: None)

    assert not nodejs.are_cache_tests_current()
    assert nodejs.missing_cache_tests() == "http-cache-tests need node and npm on the path"
    with pytest.raises(VerbError, match="node and npm"):
        nodejs.require_cache_tests()
