"""The ring is that of nginx, point by point."""

from __future__ import annotations

import csv
import os
from collections import Counter
from itertools import islice
from pathlib import Path
from zlib import crc32

import pytest

from pingora_load_balancing import ketama
from pingora_load_balancing.ketama import Bucket, Continuum

_DATA = Path(
    os.environ.get("PINGORA_TEST_DATA")
    or Path(__file__).resolve().parents[3].parent / "shared" / "data"
)
_SAMPLE = _DATA / "ketama-nginx-upstream.csv"


def _local(*ports: int, host: str = "127.0.0.1") -> list[Bucket]:
    return [Bucket(host, str(port)) for port in ports]


def _walk(buckets: list[Bucket], key: bytes, count: int) -> str:
    """The last digits of the ports on the way around the ring."""
    ring = Continuum(buckets)
    return "".join(buckets[place].port[-1] for place in islice(ring.node_iter(key), count))


@pytest.mark.parametrize(
    ("uri", "port"),
    [
        (b"/some/path", "7778"),
        (b"/some/longer/path", "7777"),
        (b"/sad/zaidoon", "7778"),
        (b"/g", "7777"),
        (b"/pingora/team/is/cool/and/this/is/a/long/uri", "7778"),
        (b"/i/am/not/confident/in/this/code", "7777"),
    ],
)
def test_matches_nginx_sample(uri: bytes, port: str) -> None:
    """Answers that nginx gave for two nodes."""
    buckets = _local(7777, 7778)

    place = Continuum(buckets).node(uri)

    assert place is not None
    assert buckets[place].port == port


def test_matches_nginx_sample_data() -> None:
    """A thousand answers that nginx gave for nine nodes of weight 100, all of them."""
    if not _SAMPLE.is_file():
        pytest.skip(f"the sample of nginx's answers is not at {_SAMPLE}")
    buckets = [Bucket(f"10.0.0.{number}", "443", 100) for number in range(1, 10)]
    ring = Continuum(buckets)
    rows = list(csv.reader(_SAMPLE.read_text().splitlines()))

    answers = [(uri, ring.node(uri.encode())) for uri, _ in rows]

    assert len(rows) == 1001
    assert len(ring) == 9 * 100 * 160
    assert [
        (uri, f"{buckets[place].host}:443" if place is not None else None) for uri, place in answers
    ] == [tuple(row) for row in rows]


def test_consistency_after_adding_host() -> None:
    """A new node takes keys from the others but does not move them between these."""
    ten = [Bucket(f"127.0.0.{number}", "6443") for number in range(1, 11)]
    eleven = [*ten, Bucket("127.0.0.11", "6443")]

    assert [Continuum(ten).node(key) for key in (b"a", b"b")] == [9, 4]
    assert [Continuum(eleven).node(key) for key in (b"a", b"b")] == [9, 4]


def test_weights() -> None:
    """The sample of the original's documentation."""
    ring = Continuum([Bucket(f"127.0.0.{weight}", "12345", weight) for weight in (1, 2, 3)])

    assert [ring.node(key) for key in (b"some_key", b"another_key", b"last_key")] == [2, 2, 1]
    assert len(ring) == 6 * 160


def test_node_iter() -> None:
    """The way around the ring, with one node more and less."""
    assert _walk(_local(7777, 7778, 7779), b"doghash", 8) == "89977889"
    assert _walk(_local(7777, 7779), b"doghash", 5) == "99779"


def test_ipv6_ring() -> None:
    """IPv6 addresses are hashed without their brackets."""
    assert _walk(_local(7777, 7778, 7779, host="::1"), b"doghash", 7) == "7878879"


def test_ring_is_walked_for_ever() -> None:
    """After the last point comes the first."""
    ring = Continuum(_local(7777, 7778))
    first, second = (list(islice(ring.node_iter(b"k"), skip, skip + 320)) for skip in (0, 320))

    assert len(ring) == 320
    assert first == second
    assert Counter(first) == {0: 160, 1: 160}


def test_empty() -> None:
    """A ring without nodes has no node for any key, and no end of it."""
    ring = Continuum([])

    assert ring.node(b"key") is None
    assert ring.node(b"key") is None
    assert list(ring.node_iter(b"key")) == []
    assert (len(ring), ring.size, ring.halvings) == (0, 0, 0)


def test_last_place_wraps_to_the_first_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key behind the last point belongs to the first."""
    ring = Continuum(_local(7777, 7778))
    first = next(islice(ring.node_iter(b""), 1))
    assert crc32(b"") == 0

    monkeypatch.setattr(ketama, "crc32", lambda *_: 0xFFFF_FFFF)

    assert ring.node(b"any") == first


def test_order_of_the_list_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where two points are at the same place; here all places are multiples of 65,536."""
    monkeypatch.setattr(ketama, "crc32", lambda *data: crc32(*data) & 0xFFFF_0000)
    buckets = [Bucket(f"10.0.0.{number}", "443", 5) for number in range(1, 10)]
    forward, backward = Continuum(buckets), Continuum(buckets[::-1])

    places = list(islice(forward.node_iter(b"k"), len(forward)))

    assert len(forward) < 9 * 5 * 160
    assert places == [8 - place for place in islice(backward.node_iter(b"k"), len(forward))]


def test_points_per_weight_are_an_option() -> None:
    """Fewer points take less memory."""
    assert len(Continuum(_local(7777, 7778), point_multiple=10)) == 20


def test_points_are_bounded() -> None:
    """Weights in the millions are scaled down alike; nobody is left without a point."""
    weights = (3_000_000, 1_000_000, 1)
    ring = Continuum(
        [Bucket("10.0.0.1", str(place), weight) for place, weight in enumerate(weights)],
        max_points=4_000,
    )

    points = Counter(islice(ring.node_iter(b""), len(ring)))

    assert ring.halvings > 0
    assert 2_000 < len(ring) <= 4_001
    assert points[0] == pytest.approx(3 * points[1], abs=3)
    assert points[2] == 1


@pytest.mark.parametrize(("wanted", "halvings"), [(320, 0), (319, 1), (160, 1), (159, 2), (1, 9)])
def test_points_are_halved_until_they_fit(wanted: int, halvings: int) -> None:
    """As few times as will do, so that a set that grows a little keeps its points."""
    assert Continuum(_local(7777, 7778), max_points=wanted).halvings == halvings


def test_ring_is_built_in_small_steps() -> None:
    """A large ring never takes long at a time, and is the same as one built at once."""
    buckets = [Bucket(f"10.0.{n >> 8}.{n & 255}", "80") for n in range(200)]
    ring, at_once = Continuum(buckets), Continuum(buckets)

    steps = sum(1 for _ in ring.prepare())

    assert steps >= 20
    assert list(ring.prepare()) == []
    assert list(islice(ring.node_iter(b"k"), 500)) == list(islice(at_once.node_iter(b"k"), 500))
    assert ring.size == 6 * len(ring)


def test_half_built_ring_is_completed_when_used() -> None:
    """Whoever is in a hurry gets the right answer."""
    buckets = [Bucket(f"10.0.0.{n}", "80") for n in range(100)]
    ring = Continuum(buckets)
    next(ring.prepare())

    assert ring.node(b"k") == Continuum(buckets).node(b"k")


def test_weight_must_be_positive() -> None:
    """A node that gets nothing has no place on a ring; the original crashes on it."""
    with pytest.raises(ValueError, match=r"weight of 10\.0\.0\.1 80 must be at least 1, not 0"):
        Bucket("10.0.0.1", "80", 0)


@pytest.mark.parametrize(("multiple", "limit"), [(0, 10), (160, 0)])
def test_bounds_must_be_positive(multiple: int, limit: int) -> None:
    """No ring without points."""
    with pytest.raises(ValueError, match="must be at least 1"):
        Continuum([], multiple, limit)
