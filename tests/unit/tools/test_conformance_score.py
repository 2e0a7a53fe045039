"""How conformance scores are shown."""

from __future__ import annotations

import pytest

from conformance.score import Failure, Score, SuiteError, markdown, replace_block, table

_SCORES = [
    Score(
        suite="h2spec",
        target="in clear",
        version="2.2.1",
        passed=145,
        total=146,
        bar="at most 2 failed",
        is_met=True,
        failures=(Failure("http2/3.5/2", "Sends nonsense"),),
        notes=("a note",),
    ),
    Score.not_run("h2spec", "over TLS", "it is not installed"),
]


def test_the_table_has_a_line_for_each_score_and_failure() -> None:
    """A suite that was not run has missed its bar, and says why."""
    lines = table(_SCORES).splitlines()

    assert [line.split()[0] for line in lines[:3]] == ["suite", "h2spec", "h2spec"]
    assert "145/146" in lines[1]
    assert lines[1].endswith(" met")
    assert lines[2].endswith("**MISSED**")
    assert lines[3:] == [
        "  h2spec, in clear: `http2/3.5/2`: Sends nonsense",
        "  h2spec, in clear: a note",
        "  h2spec, over TLS: not run: it is not installed",
    ]


def test_the_page_gets_a_table_and_the_failures_by_name() -> None:
    """Nothing in it changes unless a score does."""
    text = markdown(_SCORES)

    assert "| in clear | 2.2.1 | 145 of 146 | at most 2 failed | met |" in text
    assert "- `http2/3.5/2`: Sends nonsense" in text
    assert "- not run: it is not installed" in text


def test_only_the_block_of_a_suite_is_replaced() -> None:
    """What stands around the marks, and other suites, stays."""
    page = "a\n<!-- one -->\nold\n<!-- /one -->\nb\n<!-- two -->\n<!-- /two -->\nc\n"

    changed = replace_block(page, "one", r"new \1")

    assert changed == page.replace("\nold\n", "\n\nnew \\1\n\n")
    assert replace_block(changed, "one", r"new \1") == changed
    with pytest.raises(SuiteError, match="0 places for three"):
        replace_block(page, "three", "text")
