"""Third parties' HTTP/1 data is read as RFC 9110 and 9112 say, and every difference is listed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.conformance.http1_cases import DATA, cases
from tests.conformance.http1_reading import ENGINES, read_all

if TYPE_CHECKING:
    from tests.conformance.http1_cases import Case
    from tests.conformance.http1_reading import Reading, Verdict

_DIFFERENCES: Final = Path(__file__).with_name("http1_differences.md")
_ROW = re.compile(r"^\| (gunicorn|llhttp) \| (.+?) \| (\w+) \| (\w+) \| ([\w-]+) \|$", re.MULTILINE)
_REASON = re.compile(r"^- `([\w-]+)`: ", re.MULTILINE)

needs_data = pytest.mark.skipif(
    not (DATA / "llhttp").is_dir(),
    reason=f"no HTTP/1 corpora in {DATA.name}; PINGORA_TEST_DATA names their directory",
)


def _verdict(case: Case, reading: Reading) -> Verdict:
    if case.corpus == "gunicorn" and reading.verdict == "incomplete":
        return "refuse"  # these files end with the connection
    return reading.verdict


def _difference(case: Case) -> tuple[Verdict, bool] | None:
    """Return our verdict where it differs, and whether only a missing Host is why."""
    as_sent = _verdict(case, read_all(ENGINES[0], case.kind, case.data))
    with_host = _verdict(case, read_all(ENGINES[0], case.kind, case.data, add_host=True))
    if with_host != case.expected:
        return with_host, False
    return None if as_sent == case.expected else (as_sent, True)


@needs_data
@pytest.mark.parametrize("add_host", [False, True], ids=["as sent", "Host added"])
def test_both_engines_read_the_same(add_host: bool) -> None:
    """Verdict, messages, bodies, trailers and what is left over do not depend on the engine."""
    for case in cases():
        first, second = (
            read_all(engine, case.kind, case.data, add_host=add_host) for engine in ENGINES
        )

        assert first.verdict == second.verdict, case
        assert first.messages == second.messages, case
        assert first.rest == second.rest, case


@needs_data
def test_the_list_of_differences_is_exact() -> None:
    """No case differs that is not listed, and none is listed that does not differ."""
    listed = {
        (corpus, name): (they, we, reason == "no-host")
        for corpus, name, they, we, reason in _ROW.findall(_DIFFERENCES.read_text("utf-8"))
    }
    found = {
        (case.corpus, case.name): (case.expected, *difference)
        for case in cases()
        if (difference := _difference(case)) is not None
    }

    assert listed == found


@needs_data
def test_there_is_enough_data() -> None:
    """The corpora are found whole, under names that tell them apart."""
    names = [(case.corpus, case.name) for case in cases()]

    assert len(set(names)) == len(names)
    assert len(names) > 350


def test_every_reason_is_told_and_used() -> None:
    """Each row gives a reason that the list explains, and no reason is idle."""
    text = _DIFFERENCES.read_text("utf-8")

    rows = text.count("\n| ") - 1
    assert len(_ROW.findall(text)) == rows
    assert {row[4] for row in _ROW.findall(text)} == set(_REASON.findall(text))
