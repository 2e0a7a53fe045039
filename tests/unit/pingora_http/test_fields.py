"""Fields keep order, case and duplicates, are found without case, and cannot split a head."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from pingora_error import Error, ErrorType
from pingora_http import HeaderMap
from pingora_http._fields import _BYTE_NAMES, _MAX_CACHED_NAMES, _TEXT_NAMES


def _map(*items: tuple[str | bytes, str | bytes]) -> HeaderMap:
    return HeaderMap(items)


def _refused(name: str | bytes, value: str | bytes) -> None:
    fields = _map(("A", "1"))
    for change in (fields.insert_header, fields.append_header):
        with pytest.raises(Error) as caught:
            change(name, value)
        assert caught.value.etype is ErrorType.INVALID_HTTP_HEADER
    with pytest.raises(Error):
        _map((name, value))
    assert list(fields) == [("A", "1")]


def test_single_header() -> None:
    """A field is written with the case it was given in, and found in any case."""
    fields = _map(("FoO", "Bar"))

    assert fields.to_h1_wire() == b"FoO: Bar\r\n"
    assert fields.get("foo") == fields.get("FOO") == fields.get(b"fOo") == "Bar"
    assert fields.get_raw(b"foo") == b"Bar"


def test_multiple_headers() -> None:
    """Fields of one name keep their order, their case and their places between others."""
    fields = _map(("Set-Cookie", "a=1"), ("X", "y"), ("set-cookie", "b=2"))

    assert fields.get("Set-Cookie") == "a=1"
    assert fields.get_all("SET-COOKIE") == ["a=1", "b=2"]
    assert fields.get_all_raw(b"set-cookie") == [b"a=1", b"b=2"]
    assert fields.get_all(b"x") == ["y"]
    assert fields.has_duplicates
    assert fields.to_h1_wire() == b"Set-Cookie: a=1\r\nX: y\r\nset-cookie: b=2\r\n"


def test_all_values_without_having_looked_before() -> None:
    """Asking for all values first is no different."""
    assert _map(("A", "1"), ("a", "2")).get_all("a") == ["1", "2"]
    assert _map(("A", "1")).get_all_raw(b"b") == []


@pytest.mark.parametrize("looked_up", [False, True], ids=["no index", "index"])
def test_first_values(looked_up: bool) -> None:
    """All first values can be had at once, by lower-case name."""
    fields = _map(("A", "1"), ("a", "2"), ("B", "3"))
    if looked_up:
        assert fields.get("a") == "1"

    assert fields.first_values() == {b"a": b"1", b"b": b"3"}


def test_missing_field() -> None:
    """What is not there is None, the default, or an empty list."""
    fields = _map(("A", "1"))

    assert fields.get("b") is None
    assert fields.get("b", "other") == "other"
    assert fields.get("b", 7) == 7
    assert fields.get_raw(b"b") is None
    assert fields.get_all("b") == []
    assert fields.get("\N{SNOWMAN}") is None
    assert fields.remove_header("b") is None
    assert "b" not in fields


def test_empty_map() -> None:
    """An empty map is written as nothing."""
    fields = HeaderMap()

    assert fields.to_h1_wire() == b""
    assert len(fields) == 0
    assert not fields.has_duplicates


def test_an_empty_value_is_a_value() -> None:
    """A field may be there and be empty."""
    fields = _map(("A", ""))

    assert fields.get("a") == ""
    assert "a" in fields
    assert fields.get_all("a") == [""]
    assert fields.to_h1_wire() == b"A: \r\n"


def test_insert_replaces_all_in_place() -> None:
    """Inserting leaves one field of that name, where the first was, in the new case."""
    fields = _map(("a", "1"), ("B", "2"), ("A", "3"), ("c", "4"), ("a", "5"))

    fields.insert_header("A", "new")

    assert list(fields) == [("A", "new"), ("B", "2"), ("c", "4")]
    assert fields.get("a") == "new"
    assert not fields.has_duplicates


def test_insert_adds_at_the_end() -> None:
    """Inserting a name that was not there adds it behind the others."""
    fields = _map(("a", "1"))

    fields.insert_header(b"B", b"2")

    assert list(fields) == [("a", "1"), ("B", "2")]


@pytest.mark.parametrize("looked_up", [False, True], ids=["no index", "index"])
def test_append_keeps_the_first_value_first(looked_up: bool) -> None:
    """Appending never changes what is found first, whether or not anything was looked up."""
    fields = _map(("a", "1"))
    if looked_up:
        assert fields.get("a") == "1"

    fields.append_header("A", "2")
    fields.append_header("B", "3")

    assert fields.get("a") == "1"
    assert fields.get_all("a") == ["1", "2"]
    assert fields.get("b") == "3"


def test_remove_header() -> None:
    """Removing takes all fields of the name away and returns the first value."""
    fields = _map(("a", "1"), ("B", "2"), ("A", "3"))

    assert fields.remove_header("A") == "1"

    assert list(fields) == [("B", "2")]
    assert fields.get("a") is None


@pytest.mark.parametrize("repeated", [False, True])
def test_remove_headers(repeated: bool) -> None:
    """Several names are removed at once, repeated ones wherever they are."""
    fields = _map(("Connection", "x"), ("A", "1"), ("TE", "t"), ("B", "2"))
    if repeated:
        fields.append_header("te", "u")

    fields.remove_headers({b"te", b"connection", b"upgrade"})

    assert list(fields) == [("A", "1"), ("B", "2")]
    assert fields.get("te") is None
    assert fields.keys_lower() == {b"a", b"b"}


def test_remove_headers_without_a_hit() -> None:
    """Names that are not there change nothing."""
    fields = _map(("A", "1"))

    fields.remove_headers((b"b", b"c"))

    assert list(fields) == [("A", "1")]


def test_names_are_removed_by_tuple_too() -> None:
    """Any collection of names will do."""
    fields = _map(("A", "1"), ("B", "2"))

    fields.remove_headers((b"a",))

    assert list(fields) == [("B", "2")]


@pytest.mark.parametrize("looked_up", [False, True], ids=["no index", "index"])
def test_a_copy_is_independent(looked_up: bool) -> None:
    """Changes to a copy do not show in the original, nor the other way round."""
    fields = _map(("a", "1"), ("b", "2"))
    if looked_up:
        assert fields.get("a") == "1"
    copy = fields.copy()

    copy.insert_header("a", "changed")
    copy.append_header("c", "3")
    fields.remove_header("b")

    assert list(copy) == [("a", "changed"), ("b", "2"), ("c", "3")]
    assert list(fields) == [("a", "1")]
    assert fields.get("c") is None
    assert copy.get("b") == "2"


def test_white_space_around_values_is_no_part_of_them() -> None:
    """RFC 9110 section 5.5: optional white space is stripped."""
    assert _map(("a", " \t b c \t")).get_raw(b"a") == b"b c"


@pytest.mark.parametrize(
    "name", ["", "a b", "a:", "a\r\n", "a\0", "\xe4", "a(b)", b"", b"a ", b"\xff", "\N{SNOWMAN}"]
)
def test_bad_names_are_refused(name: str | bytes) -> None:
    """RFC 9110 section 5.1: a field name is a token."""
    _refused(name, "value")


@pytest.mark.parametrize(
    "value",
    ["a\r\nb: c", "a\nb", "a\rb", "a\0b", "\x7f", "\x01", b"\r\n", b"\x0b", "\N{SNOWMAN}"],
)
def test_bad_values_are_refused(value: str | bytes) -> None:
    """RFC 9110 section 5.5: no control characters; text beyond latin-1 has no bytes."""
    _refused("name", value)


def test_a_refusal_shows_only_the_beginning() -> None:
    """An error does not carry a whole secret into the log."""
    with pytest.raises(Error) as caught:
        _map(("a", "x" * 1000 + "\n"))

    assert len(str(caught.value)) < 200


def test_bytes_above_ascii_are_kept() -> None:
    """Obsolete text passes unchanged and reads as latin-1."""
    fields = _map((b"a", b"caf\xc3\xa9"))

    assert fields.get_raw(b"a") == b"caf\xc3\xa9"
    assert fields.get("a") == "caf\xc3\xa9"
    fields.insert_header("a", fields.get("a", ""))
    assert fields.get_raw(b"a") == b"caf\xc3\xa9"


def test_wire_items_are_taken_as_they_are() -> None:
    """A parser's list becomes the map, unchecked and not copied."""
    items = [(b"Host", b"a"), (b"host", b"b")]

    fields = HeaderMap.from_wire_items(items)

    assert fields.raw_items is items
    assert fields.get("host") == "a"


def test_equality() -> None:
    """Names compare without case, values and order with everything."""
    assert _map(("A", "1"), ("b", "2")) == _map(("a", "1"), ("B", "2"))
    assert _map(("A", "x")) != _map(("A", "X"))
    assert _map(("A", "1"), ("b", "2")) != _map(("b", "2"), ("A", "1"))
    assert _map() != "A: 1"
    with pytest.raises(TypeError):
        hash(_map())


def test_a_value_that_is_no_text_is_refused_with_its_type() -> None:
    """A number is the usual slip of who runs no type checker."""
    number: object = 5
    with pytest.raises(TypeError, match="field value: str or bytes is needed, not int"):
        _map().insert_header("X-Count", number)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="field name: str or bytes is needed, not int"):
        _map().append_header(number, "x")  # type: ignore[arg-type]


def test_repr_shows_no_values() -> None:
    """Heads hold credentials, which must not get into logs."""
    assert "secret" not in repr(_map(("Authorization", "secret")))


@pytest.mark.parametrize("text", [True, False])
def test_the_cache_of_names_is_bounded(text: bool) -> None:
    """Names that come from outside cannot fill the memory."""
    cache = _TEXT_NAMES if text else _BYTE_NAMES
    for number in range(_MAX_CACHED_NAMES + 10):
        name = f"X-{number}"
        fields = _map((name if text else name.encode(), "v"))
        assert fields.get(name) == "v"
    _map(("y" * 65, "v"), (b"y" * 65, b"v"))

    assert len(cache) <= _MAX_CACHED_NAMES
    assert "y" * 65 not in _TEXT_NAMES
    assert b"y" * 65 not in _BYTE_NAMES


_NAMES = st.sampled_from(["a", "A", "b", "B", "c", "Set-Cookie", "set-cookie"])
_VALUES = st.sampled_from(["", "1", "2", "3"])
_CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), _NAMES, _VALUES),
        st.tuples(st.just("append"), _NAMES, _VALUES),
        st.tuples(st.just("remove"), _NAMES, _VALUES),
        st.tuples(st.just("remove many"), _NAMES, _VALUES),
        st.tuples(st.just("look"), _NAMES, _VALUES),
        st.tuples(st.just("copy"), _NAMES, _VALUES),
    ),
    max_size=20,
)


@given(_CHANGES)
def test_agrees_with_a_plain_list(changes: list[tuple[str, str, str]]) -> None:
    """After any changes everything that can be asked agrees with a list of pairs."""
    fields = HeaderMap()
    model: list[tuple[str, str]] = []
    for what, name, value in changes:
        same = [i for i, (k, _) in enumerate(model) if k.lower() == name.lower()]
        match what:
            case "insert":
                fields.insert_header(name, value)
                if same:
                    model[same[0]] = (name, value)
                    model = [field for i, field in enumerate(model) if i not in same[1:]]
                else:
                    model.append((name, value))
            case "append":
                fields.append_header(name, value)
                model.append((name, value))
            case "remove":
                assert fields.remove_header(name) == (model[same[0]][1] if same else None)
                model = [field for i, field in enumerate(model) if i not in same]
            case "remove many":
                fields.remove_headers({name.lower().encode(), b"a"})
                gone = {name.lower(), "a"}
                model = [field for field in model if field[0].lower() not in gone]
            case "copy":
                fields = fields.copy()
            case _:
                assert fields.get(name) == (model[same[0]][1] if same else None)

    lower = [key.lower() for key, _ in model]
    assert list(fields) == model
    assert fields.keys_lower() == {key.encode() for key in lower}
    assert fields.has_duplicates == (len(set(lower)) != len(lower))
    for key in ("a", "b", "c", "set-cookie"):
        assert fields.get_all(key) == [v for k, v in model if k.lower() == key]
    assert fields.to_h1_wire() == "".join(f"{k}: {v}\r\n" for k, v in model).encode()
