"""What several workers see, put together."""

from __future__ import annotations

from hypothesis import given, settings, strategies as st

from pingora_proxy.admin.together import together


def _row(state: str, in_flight: int = 0, latency: float | None = None) -> dict[str, object]:
    return {
        "address": "a",
        "state": state,
        "is_ready": state == "ready",
        "is_enabled": state in {"ready", "unhealthy"},
        "weight": 1,
        "in_flight": in_flight,
        "latency": latency,
    }


def _backend(*rows: dict[str, object]) -> dict[str, object]:
    views = [{"backends": {"web": [row]}} for row in rows]
    backends = together(views)["backends"]
    assert isinstance(backends, dict)
    [row] = backends["web"]
    assert isinstance(row, dict)
    return row


def test_requests_in_flight_are_added_up() -> None:
    """Latencies are averaged over the workers that know one."""
    row = _backend(_row("ready", 2, 0.1), _row("ready", 3, 0.3), _row("ready"))

    assert (row["in_flight"], row["latency"]) == (5, 0.2)
    assert (row["state"], row["states"], row["is_ready"]) == ("ready", {"ready": 3}, True)


def test_where_they_disagree_the_worst_is_told() -> None:
    """With how many say what; it drains for as long as one of them has requests there."""
    row = _backend(_row("ready"), _row("unhealthy"), _row("ready"))
    assert row["state"] == "unhealthy"
    assert row["states"] == {"ready": 2, "unhealthy": 1}
    assert row["is_ready"] is False
    assert _backend(_row("drained"), _row("draining", 1))["state"] == "draining"
    assert _backend(_row("ready"), _row("of its own"))["state"] == "of its own"
    assert _backend(_row("ready"), _row("drained"))["is_enabled"] is False


def test_a_backend_that_only_one_has_found() -> None:
    """It is told as well."""
    other = _row("ready") | {"address": "b"}
    views = [{"backends": {"web": [_row("ready")]}}, {"backends": {"web": [other]}}]
    backends = together(views)["backends"]
    assert isinstance(backends, dict)
    assert [row["address"] for row in backends["web"]] == ["a", "b"]


def test_caches() -> None:
    """Counts are added up; what a common store holds is told once, and an age is the highest."""
    cache = {"requests": {"hits": 2, "age_max": 3.0}, "storage": {"objects": 5, "evictions": 1}}
    views = [{"caches": {"own": cache, "common": cache}}] * 2
    assert together(views, ["common"])["caches"] == {
        "own": {
            "requests": {"hits": 4, "age_max": 3.0},
            "storage": {"objects": 10, "evictions": 2},
        },
        "common": {
            "requests": {"hits": 4, "age_max": 3.0},
            "storage": {"objects": 5, "evictions": 2},
        },
    }


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["backends", "caches", "pools", "web", "x"]), inner)
    ),
    max_leaves=12,
)


@settings(max_examples=80)
@given(st.lists(st.dictionaries(st.sampled_from(["backends", "caches", "pools"]), _JSON)))
def test_whatever_a_worker_says(views: list[dict[str, object]]) -> None:
    """One of another version, or a source that is not as it should be, brings nothing down."""
    assert together(views).keys() == {"backends", "caches", "pools"}
