"""Variances: a hash of names and values, in which order does not matter."""

from __future__ import annotations

from hypothesis import given, settings, strategies as st

from pingora_cache.variance import VarianceBuilder

_A = "a5ebffcdf1667531d459407d3dc748d3"
_ABC = "15f335223c45aeb47ea6983eb5218647"
_VALUES = st.dictionaries(st.binary(max_size=4), st.binary(max_size=4), max_size=4)


def _variance(*values: tuple[str | bytes, str | bytes]) -> bytes | None:
    builder = VarianceBuilder()
    for name, value in values:
        builder.add_value(name, value)
    assert builder.has_variance is bool(values)
    return builder.finalize()


def test_basic() -> None:
    """Nothing gives no variance; text and bytes give the same."""
    assert _variance() is None
    assert _variance(("a", "a")) == _variance((b"a", b"a")) == bytes.fromhex(_A)


def test_value_ordering() -> None:
    """The order in which values are added does not matter."""
    values = [("a", "a"), ("b", "b"), ("c", "c")]
    for order in ((0, 1, 2), (1, 0, 2), (2, 1, 0)):
        assert _variance(*[values[at] for at in order]) == bytes.fromhex(_ABC)


def test_value_overriding() -> None:
    """A value replaces an earlier one of the same name."""
    assert _variance(("a", "b"), ("a", "a")) == bytes.fromhex(_A)


def test_text_is_utf8() -> None:
    """Text counts as its UTF-8 bytes."""
    assert _variance(("ä", "ö")) == _variance((b"\xc3\xa4", b"\xc3\xb6"))


def test_zeros_do_not_confuse() -> None:
    """What ends a name or a value in the hash may also be in one."""
    assert _variance(("a", "b\0c\0d")) != _variance(("a", "b"), ("c", "d"))
    assert _variance(("a\0b", "c")) != _variance(("a", "b\0c"))


@given(one=_VALUES, other=_VALUES)
@settings(max_examples=200)
def test_variances_do_not_meet(one: dict[bytes, bytes], other: dict[bytes, bytes]) -> None:
    """Two sets of values have one variance only if they are the same."""
    variances = [_variance(*values.items()) for values in (one, other)]

    assert (variances[0] == variances[1]) == (one == other)
