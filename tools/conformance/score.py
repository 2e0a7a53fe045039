"""What a suite says about a server, and how that is shown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Failure", "Score", "SuiteError", "markdown", "replace_block", "table"]


class SuiteError(Exception):
    """A suite cannot be run, or what it printed makes no sense; the text says why."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A case that did not go as the suite wants it.

    Attributes:
        case: The suite's name for it.
        text: What was expected and what came, on one line.
    """

    case: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The outcome of one suite against one server.

    Attributes:
        suite: Name of the suite.
        target: What it was run against.
        version: Version of the suite.
        passed: Cases that went well.
        total: Cases that were run.
        bar: What is asked for.
        is_met: Whether that was reached.
        failures: The cases that did not go well.
        notes: What else there is to say, one line each.
    """

    suite: str
    target: str
    version: str
    passed: int
    total: int
    bar: str
    is_met: bool
    failures: tuple[Failure, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def not_run(cls, suite: str, target: str, reason: str) -> Score:
        """Tell of a suite that could not be run: no bar is met by that.

        Args:
            suite: Its name.
            target: What it should have been run against.
            reason: Why not.

        Returns:
            The score.
        """
        return cls(
            suite=suite,
            target=target,
            version="-",
            passed=0,
            total=0,
            bar="is run",
            is_met=False,
            notes=(f"not run: {reason}",),
        )


def table(scores: Iterable[Score]) -> str:
    """Lay scores out for a terminal, failures below.

    Args:
        scores: Of all suites.

    Returns:
        Lines of text.
    """
    scores = list(scores)
    target = max((len(score.target) for score in scores), default=0) + 2
    lines = [f"{'suite':12}{'target':{target}}{'version':12}{'passed':>12}  {'bar':34}"]
    lines.extend(
        f"{score.suite:12}{score.target:{target}}{score.version:12}"
        f"{f'{score.passed}/{score.total}':>12}  {score.bar:34}{_verdict(score)}"
        for score in scores
    )
    for score in scores:
        lines.extend(f"  {score.suite}, {score.target}: {line}" for line in _details(score))
    return "\n".join(lines)


def markdown(scores: Sequence[Score]) -> str:
    """Write the scores of one suite for the documentation.

    Args:
        scores: Its scores.

    Returns:
        A table, then what failed.
    """
    lines = ["| target | version | passed | bar | |", "|---|---|---|---|---|"]
    lines.extend(
        f"| {score.target} | {score.version} | {score.passed} of {score.total} | {score.bar} "
        f"| {_verdict(score)} |"
        for score in scores
    )
    for score in scores:
        details = _details(score)
        if details:
            lines.extend(["", f"{score.target}:", ""])
            lines.extend(f"- {line}" for line in details)
    return "\n".join(lines)


def replace_block(page: str, suite: str, text: str) -> str:
    """Put new scores between the marks of a suite.

    Args:
        page: A page with a line ``<!-- SUITE -->`` and below it one ``<!-- /SUITE -->``.
        suite: The suite.
        text: What goes between them.

    Returns:
        The page.

    Raises:
        SuiteError: The page does not have the marks.
    """
    start, end = f"<!-- {suite} -->", f"<!-- /{suite} -->"
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
    block = f"{start}\n\n{text}\n\n{end}"
    changed, count = pattern.subn(lambda _: block, page)
    if count != 1:
        raise SuiteError(f"the page has {count} places for {suite}, not one")
    return changed


def _verdict(score: Score) -> str:
    return "met" if score.is_met else "**MISSED**"


def _details(score: Score) -> list[str]:
    failed = [f"`{failure.case}`: {failure.text}" for failure in score.failures]
    return [*failed, *score.notes]
