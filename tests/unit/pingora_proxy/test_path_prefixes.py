"""The longest prefix of whole segments counts."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given, strategies as st

from pingora_proxy.path_prefixes import PathPrefixes


def _table(*prefixes: str) -> PathPrefixes[str]:
    table = PathPrefixes[str]()
    for prefix in prefixes:
        table[prefix] = prefix
    return table


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/", "/"),
        ("", "/"),
        ("/user", "/"),
        ("/user/alicex", "/"),
        ("/user/alice", "/user/alice"),
        ("/user/alice/", "/user/alice"),
        ("//user/alice", "/user/alice"),
        ("/user/%61lice/lab", "/user/alice"),
        ("/user%2Falice/lab", "/user/alice"),
        ("/user/alice/lab/tree", "/user/alice/lab/tree"),
        ("/user/alice/lab/tree/a/b/c", "/user/alice/lab/tree"),
        ("/user/alice/lab/trees", "/user/alice"),
        ("/user/al%2561lice", "/"),
        ("/user//alice", "/"),
        ("/user/b%C3%A4r", "/user/bär/"),
    ],
)
def test_longest(path: str, found: str) -> None:
    """Wherever there are slashes, and however it is encoded, once."""
    table = _table("/", "/user/alice", "/user/alice/lab/tree", "/user/bär/")
    assert table.longest(path) == found


def test_without_a_root_there_may_be_nothing() -> None:
    """Nor is there anything in an empty table."""
    assert _table().longest("/a") is None
    assert _table("/a/b").longest("/a") is None


def test_keys_are_what_they_mean() -> None:
    """One that is written in another way is the same; what is not there is a KeyError."""
    table = _table("/a%20b/", "c")
    assert dict(table) == {"/a b": "/a%20b/", "/c": "c"}
    table["/a b"] = "new"
    assert (len(table), table["a%20b"]) == (2, "new")
    del table["/a b/"]
    assert "/a b" not in table
    with pytest.raises(KeyError):
        del table["/a b"]


def test_there_is_a_limit() -> None:
    """What is there may still be changed, and leaves room."""
    table = PathPrefixes[int](limit=2)
    table["/a"] = table["/b"] = 1
    table["/a"] = 2
    with pytest.raises(ValueError, match="2 prefixes"):
        table["/c"] = 1
    del table["/a"]
    table["/c"] = 1
    assert list(table) == ["/b", "/c"]


_PATHS = st.lists(st.sampled_from(["", "a", "b", "a b"]), max_size=5).map("/".join)


@given(st.lists(_PATHS, max_size=8), st.lists(st.integers(0, 7), max_size=4), _PATHS)
def test_it_is_what_trying_all_finds(keys: list[str], gone: list[int], path: str) -> None:
    """Whatever was added and removed, and in which order."""
    table = _table(*keys)
    for index in gone:
        if index < len(keys):
            table.pop(keys[index], None)
    path = "/" + path.lstrip("/")
    fitting = [key for key in table if f"{path}/".startswith(key.rstrip("/") + "/")]
    longest = max(fitting, key=len, default=None)
    assert table.longest(quote(path)) == (None if longest is None else table[longest])


def test_a_long_path_costs_no_more_than_the_longest_key() -> None:
    """Of which one that was removed is none."""
    table = _table("/a", "/a/b/c/d")
    assert table._depth == 4
    del table["/a/b/c/d"]
    assert table._depth == 1
    assert table.longest("/a" + "/" * 100_000) == "/a"
