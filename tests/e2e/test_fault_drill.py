"""Faults under load, as operators meet them: the failover example keeps them from the clients.

The long form, with phases of ten seconds: ``python -m tests.support.drill``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.drill.drill import Drill

if TYPE_CHECKING:
    import pytest


async def test_clients_do_not_notice(capsys: pytest.CaptureFixture[str]) -> None:
    """Of four backends one is killed, one slowed to 2 s, one answers 500, all at once, and healed.

    Clients see hardly any failure, the bad ones are out at once and come back, and the retries
    stay within their budget, also when nothing but retries is left to do.
    """
    # So few that a machine with other things to do has time for all: what the healthy one cannot
    # answer in time is a failure too.
    report = await Drill(rate=60.0, per_try_timeout=1.0).run()
    with capsys.disabled():
        print(f"\n{report}")  # noqa: T201  # the counts are what this is about

    assert report.missed == []
    assert report.out.keys() == report.back.keys() == {"killed", "slowed", "broken"}
    assert report.answers.keys() == {"killed", "slowed", "broken", "healthy"}
