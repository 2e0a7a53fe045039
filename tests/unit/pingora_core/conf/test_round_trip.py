"""to_yaml and from_yaml: every configuration survives being written and read."""

from __future__ import annotations

from dataclasses import fields
from typing import get_type_hints

from hypothesis import given, settings, strategies as st

from pingora_core.conf import ServerConf, _types
from pingora_core.conf._keys import ServerKeys

HINTS = get_type_hints(ServerKeys, include_extras=True)
TEXT = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1)
CPUS = st.lists(st.integers(0, 65535), min_size=1, max_size=3).map(tuple)
STRATEGIES: dict[object, st.SearchStrategy[object]] = {
    _types.Flag: st.booleans(),
    _types.Text: TEXT,
    _types.Count: st.integers(1, 2**31 - 1),
    _types.CountOrZero: st.integers(0, 2**31 - 1),
    _types.Bytes: st.integers(1, 2**63 - 1),
    _types.Workers: st.integers(1, 1024) | st.just("auto"),
    _types.Seconds: st.floats(0, 31_536_000),
    _types.SomeSeconds: st.floats(0, 31_536_000, exclude_min=True),
    _types.Engine: st.sampled_from(["httptools", "h11"]),
    _types.Http2Engine: st.sampled_from(["h2", "jh2"]),
    _types.LogLevel: st.sampled_from(["debug", "info", "warning", "error", "critical"]),
    _types.IPv4List: st.lists(st.ip_addresses(v=4).map(str), max_size=3).map(tuple),
    _types.IPv6List: st.lists(st.ip_addresses(v=6).map(str), max_size=3).map(tuple),
    _types.Affinity: st.lists(CPUS, min_size=1, max_size=3).map(tuple) | st.just("auto"),
    _types.Umask: st.integers(0, 0o777),
}
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=8
)


def strategy(hint: object) -> st.SearchStrategy[object]:
    """Make values of a key's type."""
    for known, values in STRATEGIES.items():
        if hint == known:
            return values
        if hint == known | None:  # type: ignore[operator]  # annotated types can be joined
            return values | st.none()
    raise AssertionError(hint)


CONFIGURATIONS = st.fixed_dictionaries(
    {},
    optional={
        **{each.name: strategy(HINTS[each.name]) for each in fields(ServerKeys)},
        "extra": st.dictionaries(TEXT.map(lambda key: f"my {key}"), VALUES, max_size=3),
    },
)


@settings(deadline=None)
@given(CONFIGURATIONS)
def test_what_is_written_is_read_back(values: dict[str, object]) -> None:
    """Equal in every key, the application's own included, and written in the same way again."""
    conf = ServerConf(**values)  # type: ignore[arg-type]  # by construction of the right types

    again = ServerConf.from_yaml(conf.to_yaml(), quiet=True)

    assert again == conf
    assert again.to_yaml() == conf.to_yaml()
