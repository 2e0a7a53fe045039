"""What several workers see, put together; no I/O.

Theory of operation. Every worker checks the health of the backends itself, has requests of its own in flight
and counts its own cache. Whoever looks wants to know it of the server: numbers are added up, and where
the workers do not agree about a backend, the worst that one of them says is told, with how many say so.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["together"]

_WORST_FIRST: Final = (
    "unhealthy",
    "circuit open",
    "ejected",
    "draining",
    "disabled",
    "drained",
    "ready",
)
_HELD: Final = ("objects", "used_bytes")
_MOST: Final = ("age_max",)


def together(
    views: Sequence[Mapping[str, object]], shared: Iterable[str] = ()
) -> dict[str, object]:
    """Put views together.

    Args:
        views: That of each worker, with ``backends``, ``caches`` and ``pools``; the first one says
            what there is and in which order. What is not as it should be is passed over.
        shared: Names of caches whose store the workers have in common: what it holds is told
            once.

    Returns:
        One view.
    """
    names = frozenset(shared)
    return {
        "backends": {
            pool: _backends([_list(part.get(pool)) for part in _parts(views, "backends")])
            for pool in _names(views, "backends")
        },
        "caches": {
            cache: _groups([_mapping(part.get(cache)) for part in _parts(views, "caches")], cache in names)
            for cache in _names(views, "caches")
        },
        "pools": {
            proxy: _sums([_mapping(part.get(proxy)) for part in _parts(views, "pools")], ())
            for proxy in _names(views, "pools")
        },
    }  # fmt: skip


def _parts(views: Sequence[Mapping[str, object]], name: str) -> list[Mapping[str, object]]:
    return [_mapping(view.get(name)) for view in views]


def _names(views: Sequence[Mapping[str, object]], name: str) -> list[str]:
    return list(_mapping(views[0].get(name))) if views else []


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Mapping[str, object]]:
    return [_mapping(each) for each in value] if isinstance(value, list) else []


def _number(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if isinstance(value, int | float) and is_number else None


# ------------------------------------------------------------------------------- backends


def _backends(tables: list[list[Mapping[str, object]]]) -> list[dict[str, object]]:
    # Discovery may be ahead in one worker: what only one of them knows is told as well.
    by_address: dict[str, list[Mapping[str, object]]] = {}
    for table in tables:
        for row in table:
            by_address.setdefault(str(row.get("address")), []).append(row)
    return [_backend(rows) for rows in by_address.values()]


def _backend(rows: list[Mapping[str, object]]) -> dict[str, object]:
    states = Counter(str(row.get("state")) for row in rows)
    latencies = [each for row in rows if (each := _number(row.get("latency"))) is not None]
    worst = min(states, key=_badness)
    if worst == "drained" and "draining" in states:
        worst = "draining"
    return {
        **rows[0],
        "state": worst,
        "states": dict(states),
        "is_ready": all(row.get("is_ready") is True for row in rows),
        "is_enabled": all(row.get("is_enabled") is True for row in rows),
        "in_flight": sum(int(_number(row.get("in_flight")) or 0) for row in rows),
        "latency": sum(latencies) / len(latencies) if latencies else None,
    }


def _badness(state: str) -> int:
    # A state of a source's own says why something is not used: it is as bad as any.
    return _WORST_FIRST.index(state) if state in _WORST_FIRST else 0


# -------------------------------------------------------------------------------- numbers


def _groups(caches: list[Mapping[str, object]], is_shared: bool) -> dict[str, object]:  # noqa: FBT001
    return {
        group: _sums(
            [_mapping(each.get(group)) for each in caches],
            _HELD if is_shared and group == "storage" else (),
        )
        for group in (caches[0] if caches else ())
    }


def _sums(tables: list[Mapping[str, object]], once: tuple[str, ...]) -> dict[str, float | None]:
    names = dict.fromkeys(name for table in tables for name in table)
    return {name: _sum(name, tables, once) for name in names}


def _sum(name: str, tables: list[Mapping[str, object]], once: tuple[str, ...]) -> float | None:
    numbers = [each for table in tables if (each := _number(table.get(name))) is not None]
    if not numbers:
        return None
    if name in once:
        return numbers[0]
    return max(numbers) if name in _MOST else sum(numbers)
