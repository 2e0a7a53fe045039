"""Selections by a hash of the key, and the original's own ones, give the known answers."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING

import pytest

from pingora_load_balancing import (
    Backend,
    BackendSet,
    FNVHash,
    KetamaHashing,
    LoadBalancer,
    MaglevHashing,
    OriginalRoundRobin,
    Random,
)
from pingora_load_balancing.selection.weighted import fnv1a

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pingora_load_balancing import BackendSelection

_KEYS = [b"/key/%d" % number for number in range(10_000)]
# The backends of the original's tests; sorted by address: b2, b3, b1.
_NAMES = {"1.1.1.1:80": "1", "1.0.0.1:80": "2", "1.0.0.255:80": "3"}


def _three(weight: int = 1) -> list[Backend]:
    """B1, B2 with a weight, and B3."""
    return [Backend("1.1.1.1:80"), Backend("1.0.0.1:80", weight), Backend("1.0.0.255:80")]


def _order(selection: BackendSelection, key: bytes, count: int) -> str:
    """The numbers of the first candidates."""
    return "".join(_NAMES[str(backend)] for backend in islice(selection.iter(key), count))


def _many(count: int, *, weight: int = 1) -> list[Backend]:
    return [Backend(f"10.0.{n >> 8}.{n & 255}:80", weight) for n in range(count)]


def _first(selection: BackendSelection, keys: Sequence[bytes] = _KEYS) -> list[Backend]:
    return [next(selection.iter(key)) for key in keys]


def test_ketama() -> None:
    """Known answers; without a backend its keys move to others, and no other key does."""
    keys = [b"test%d" % number for number in range(10)]
    ring, less = KetamaHashing(_three()), KetamaHashing(_three()[:2])

    assert "".join(_order(ring, key, 1) for key in keys) == "2111131312"
    assert "".join(_order(less, key, 1) for key in keys) == "2111121112"


def test_ketama_passes_over_what_is_not_ready_like_what_is_gone() -> None:
    """A key moves to the same place whether its backend is unhealthy or has left."""
    balancer = LoadBalancer(_many(20), selection=KetamaHashing)
    gone = balancer.backends[7]
    balancer.set_enable(gone, False)
    less = KetamaHashing([backend for backend in balancer.backends if backend != gone])

    assert [balancer.select(key, 256) for key in _KEYS[:500]] == _first(less, _KEYS[:500])


def test_ketama_takes_names_and_unix_sockets() -> None:
    """The original leaves them out."""
    ring = KetamaHashing(
        [Backend("unix:/run/a.sock"), Backend("app.test:80"), Backend("[fe80::1]:80")]
    )

    assert len(ring.ring) == 3 * 160
    assert len({str(backend) for backend in _first(ring, _KEYS[:200])}) == 3


def test_ketama_warns_when_weights_are_too_much(caplog: pytest.LogCaptureFixture) -> None:
    """Who asks for billions of points is told what they get."""
    ring = KetamaHashing(
        [Backend("10.0.0.1:80", 7_000_000), Backend("10.0.0.2:80", 7_000_000)], max_points=1_000
    )

    spread = Counter(_first(ring))

    assert "the weights of 2 backends ask for more than 1000 points" in caplog.text
    assert max(spread.values()) < 6_500


@pytest.mark.parametrize("count", [3, 10, 100, 1_000])
@pytest.mark.parametrize("build", [KetamaHashing, MaglevHashing])
def test_removing_one_backend_moves_few_keys(
    build: type[KetamaHashing | MaglevHashing], count: int
) -> None:
    """At most its own share and one percent."""
    backends = _many(count)
    leaver = backends[count // 2]
    before = _first(build(backends))
    after = _first(build([backend for backend in backends if backend is not leaver]))

    moved = sum(old != new for old, new in zip(before, after, strict=True))

    assert moved / len(_KEYS) <= 1 / count + 0.01
    assert leaver not in after


def test_ketama_moves_no_key_between_those_that_stay() -> None:
    """Only the keys of the one that left move."""
    backends = _many(50)
    before, after = _first(KetamaHashing(backends)), _first(KetamaHashing(backends[1:]))

    assert all(old == new for old, new in zip(before, after, strict=True) if old is not backends[0])


@pytest.mark.parametrize("count", [1, 3, 100, 655, 1_000])
def test_maglev_table_is_even(count: int) -> None:
    """Shares of the table differ by at most 1 %: the bound of the paper for 100 places each."""
    table = MaglevHashing(_many(count)).table
    places = Counter(table)

    assert len(table) >= 100 * count
    assert len(places) == count
    assert max(places.values()) - min(places.values()) <= 1
    assert max(places.values()) <= 1.01 * len(table) / count


def test_maglev_observes_weights() -> None:
    """Shares are in proportion, whatever the weights, and nobody is left out."""
    weights = (5_000_000, 3_000_000, 2_000_000, 1)
    backends = [Backend(f"10.0.0.{n}:80", weight) for n, weight in enumerate(weights)]
    selection = MaglevHashing(backends)
    places = Counter(selection.table)

    for index, weight in enumerate(weights):
        due = weight / sum(weights) * len(selection.table)
        assert abs(places[index] - due) <= 4
    assert places[3] >= 1


def test_maglev_does_not_depend_on_the_order_of_the_list() -> None:
    """Two balancers that hear of the backends in different orders agree."""
    backends = _many(60)

    assert _first(MaglevHashing(backends)) == _first(MaglevHashing(backends[::-1]))


def test_maglev_goes_on_to_all_others_evenly() -> None:
    """The keys of a backend that is not ready are spread over all the others."""
    balancer = LoadBalancer(_many(5), selection=MaglevHashing)
    gone = balancer.backends[0]
    theirs = [key for key in _KEYS if balancer.select(key, 1) == gone]
    balancer.set_enable(gone, False)

    moved = Counter(balancer.select(key, 256) for key in theirs)

    assert len(theirs) > 1_500
    assert len(moved) == 4
    assert max(moved.values()) < 1.4 * len(theirs) / 4


def test_maglev_table_size_is_an_option() -> None:
    """It must be a prime with a place for each."""
    backends = _many(8)

    assert len(MaglevHashing(backends, 251).table) == 251
    with pytest.raises(ValueError, match="table_size must be a prime, not 252"):
        MaglevHashing(backends, 252)
    with pytest.raises(ValueError, match="a table of 7 places has none for some of 8 backends"):
        MaglevHashing(backends, 7)


def test_maglev_is_built_in_small_steps() -> None:
    """A large table never takes long at a time, and is the same as one built at once."""
    backends = _many(700)
    selection = MaglevHashing(backends)

    steps = sum(1 for _ in selection.prepare())

    assert steps > 50
    assert list(selection.prepare()) == []
    assert selection.table == MaglevHashing(backends).table


def test_fnv() -> None:
    """Known answers: the first candidates, and those that follow."""
    selection = FNVHash(_three(10))

    assert _order(selection, b"test", 11) == "22213221231"
    assert "".join(_order(selection, b"test%d" % n, 1) for n in range(1, 8)) == "2231222"


@pytest.mark.parametrize(
    ("data", "value"),
    [(b"", 0xCBF29CE484222325), (b"a", 0xAF63DC4C8601EC8C), (b"foobar", 0x85944171F73967E8)],
)
def test_fnv1a_test_vectors(data: bytes, value: int) -> None:
    """Those that its authors publish."""
    assert fnv1a(data) == value


def test_round_robin() -> None:
    """The original's order: a run for a heavy backend, a shared counter, plain turns after that."""
    selection = OriginalRoundRobin(_three(8))

    assert _order(selection, b"", 5) == "23123"
    assert "".join(_order(selection, b"", 1) for _ in range(7)) == "2223122"


def test_random() -> None:
    """Each is drawn as often as its weight says."""
    drawn = Counter(str(backend) for backend in _first(Random(_three(8))))

    assert 7_000 <= drawn["1.0.0.1:80"] <= 9_000
    assert len(drawn) == 3


def test_original_order_is_by_number_and_kind() -> None:
    """Addresses are sorted as the original sorts them, and its new kinds after these."""
    texts = ["10.0.0.9:80", "10.0.0.10:80", "10.0.0.10:443", "[::1]:80", "a.test:80", "unix:/a"]
    selection = OriginalRoundRobin([Backend(text) for text in reversed(texts)])

    assert [str(backend) for backend in islice(selection.iter(b""), 6)] == texts


def test_selections_can_be_built_with_a_plain_list() -> None:
    """A pool is needed only by those that look at load."""
    assert next(KetamaHashing(BackendSet.of(_three())).iter(b"test0")) == next(
        KetamaHashing(_three()).iter(b"test0")
    )
