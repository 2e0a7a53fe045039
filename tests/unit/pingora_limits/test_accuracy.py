"""Who keeps to its rate is not refused for what others do: the simulation behind the promise.

Hashes are drawn from a seeded generator, since those of Python differ from run to run.
"""

from __future__ import annotations

import random

import pytest

from pingora_limits import Rate
from pingora_limits._tally import Geometry, Tally
from tests.support.clock import FakeClock

_CLIENTS = 10_000
_EVENTS = 10


def _refused(geometry: Geometry, seed: int) -> int:
    """Let all clients send their events in random order; how many saw twice their rate?"""
    randomness = random.Random(seed)
    clients = [randomness.getrandbits(64) - 2**63 for _ in range(_CLIENTS)]
    arrivals = clients * _EVENTS
    randomness.shuffle(arrivals)
    tally = Tally(geometry)
    return len({client for client in arrivals if tally.add(client, 1) > 2 * _EVENTS})


def test_equal_clients_are_exact_by_default() -> None:
    """As many clients as are expected are not confused at all."""
    randomness = random.Random(11)
    rate = Rate(60.0, clock=FakeClock())
    arrivals = [number for number in range(_CLIENTS) for _ in range(_EVENTS)]
    randomness.shuffle(arrivals)

    most = max(rate.observe(client) for client in arrivals)

    assert most == _EVENTS
    assert rate.memory <= rate.max_memory < 4_000_000


@pytest.mark.parametrize(
    "geometry",
    [
        pytest.param(Geometry(_CLIENTS, exact_keys=0), id="sketch-alone"),
        pytest.param(Geometry(_CLIENTS // 2), id="half-of-them-expected"),
        pytest.param(Geometry(_CLIENTS // 2, exact_keys=0), id="sketch-of-half-the-size"),
    ],
)
def test_fewer_than_one_in_a_thousand_is_refused_wrongly(geometry: Geometry) -> None:
    """At twice their real rate, also when the sketch has to take over."""
    assert _refused(geometry, seed=7) < _CLIENTS // 1_000


def test_the_original_refuses_nearly_everybody() -> None:
    """Why it is done differently here: four rows of 1024 plain counters are not enough."""
    randomness = random.Random(7)
    clients = [randomness.getrandbits(64) - 2**63 for _ in range(_CLIENTS)]
    tally = Tally(Geometry(_CLIENTS, exact_keys=0, slots=1024))
    for client in clients * _EVENTS:
        tally.add(client, 1)

    assert sum(tally.get(client) > 2 * _EVENTS for client in clients) > _CLIENTS // 2
