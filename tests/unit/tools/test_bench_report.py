"""The benchmark's arithmetic: what is compared with what, and when a bar counts as missed."""

from __future__ import annotations

import json

from bench.report import Row, bars, compare, table


def _rows() -> list[Row]:
    rows = [
        Row("small_get", "pingora", 1000, cpu_us=40.0, p50_ms=1.23456, p99_ms=2.0, rss_kib=5000),
        Row("small_get", "nginx", 2000, cpu_us=20.0, p50_ms=1.0, p99_ms=2.0, rss_kib=900),
        Row("small_get", "aiohttp", 500, cpu_us=160.0, p50_ms=9.0, p99_ms=20.0, rss_kib=9000),
        Row("idle_200", "pingora", 200, rss_kib=6000, kib_per_connection=12.5),
    ]
    compare(rows)
    return rows


def test_the_ratio_is_to_nginx_in_the_same_scenario() -> None:
    """Each row gets nginx's CPU of its scenario; a scenario without nginx gets none."""
    rows = _rows()

    assert [row.peer_cpu_us for row in rows] == [20.0, 20.0, 20.0, None]
    assert [row.ratio for row in rows] == [2.0, 1.0, 8.0, None]


def test_a_json_line_holds_the_fields_of_the_contract_first() -> None:
    """The nine fields come in their order; what was not measured is null or absent."""
    rows = _rows()

    fields: dict[str, float | str | None] = json.loads(rows[0].to_json())

    assert list(fields.items()) == [
        ("scenario", "small_get"),
        ("peer", "pingora"),
        ("requests", 1000),
        ("cpu_us", 40.0),
        ("peer_cpu_us", 20.0),
        ("ratio", 2.0),
        ("p50_ms", 1.235),
        ("p99_ms", 2.0),
        ("rss_kib", 5000),
    ]
    idle: dict[str, float | str | None] = json.loads(rows[3].to_json())
    assert idle["cpu_us"] is None
    assert idle["kib_per_connection"] == 12.5


def test_a_stampede_is_judged_by_what_reaches_the_origin() -> None:
    """One request for an object is the bar, whatever it cost."""
    rows = [
        Row("cache_stampede", "pingora", 2000, cpu_us=90.0, origin_requests=1),
        Row("cache_stampede", "nginx", 2000, cpu_us=30.0, origin_requests=2),
    ]

    assert [line.rpartition(": ")[2] for line in bars(rows)] == ["met"]
    rows[0].origin_requests = 3
    assert [line.rpartition(": ")[2] for line in bars(rows)] == ["MISSED by 2.00"]
    assert "3 to the origin" in table(rows)


def test_bars_tell_met_from_missed() -> None:
    """A ratio under its bar is met; memory over its bar is missed, and by how much is told."""
    lines = bars(_rows())

    assert [line.partition("  ")[0] for line in lines] == [
        "small_get: CPU, as a multiple of nginx",
        "small_get: CPU, as a share of aiohttp",
        "idle_200: memory of a connection",
    ]
    assert [line.rpartition(": ")[2] for line in lines] == ["met", "met", "MISSED by 2.50 KiB"]


def test_bars_stay_silent_about_what_was_not_measured() -> None:
    """Without our own rows there is nothing to hold against a bar."""
    rows = [row for row in _rows() if row.peer != "pingora"]

    assert bars(rows) == []


def test_the_table_has_one_line_for_each_row() -> None:
    """Every row is there, errors in plain sight."""
    rows = _rows()
    rows[0].errors = 3

    lines = table(rows).splitlines()

    assert len(lines) == 1 + len(rows)
    assert "3 ERRORS" in lines[1]
    assert "12.5 KiB a connection" in lines[4]
