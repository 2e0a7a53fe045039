"""The trace context is read as the recommendation says, or not at all."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from pingora_http import HeaderMap
from pingora_proxy.tracing import TraceContext

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


def _fields(*parents: str, state: tuple[str, ...] = ()) -> HeaderMap:
    return HeaderMap(
        [("traceparent", value) for value in parents] + [("tracestate", value) for value in state]
    )


def test_a_context_is_read_and_written() -> None:
    """The example of the recommendation, and what goes to the next hop."""
    context = TraceContext.read(_fields(f"00-{TRACE}-{SPAN}-01", state=("a=1, b=2", "c@x=3")))
    assert context == TraceContext(TRACE, SPAN, 1, "a=1,b=2,c@x=3")
    assert context.is_sampled
    child = context.child(lambda count: b"\x01" * count)
    header = _fields("old", "older", state=("x=y",))
    child.write(header)
    assert header.get_all("traceparent") == [f"00-{TRACE}-{'01' * 8}-01"]
    assert header.get_all("tracestate") == ["a=1,b=2,c@x=3"]


@pytest.mark.parametrize(
    "parent",
    [
        "",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-0x",
        f"0-{TRACE}-{SPAN}-01",
    ],
)
def test_what_is_malformed_is_no_context(parent: str) -> None:
    """A new trace begins instead of a wrong one."""
    assert TraceContext.read(_fields(parent)) is None


def test_two_parents_are_no_context() -> None:
    """Two readings of one request are not possible."""
    parent = f"00-{TRACE}-{SPAN}-01"
    assert TraceContext.read(_fields(parent, parent)) is None


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    """Also with more at the end; unknown flags are not passed on."""
    context = TraceContext.read(_fields(f"cc-{TRACE}-{SPAN}-ff-what-comes"))
    assert context == TraceContext(TRACE, SPAN, 3)


@pytest.mark.parametrize(
    "state", ["=1", "a", "A=1", "a=1,a=2", "a=\x7f", ",".join(f"k{n}=v" for n in range(33))]
)
def test_a_state_that_is_malformed_is_dropped_alone(state: str) -> None:
    """The trace goes on without it."""
    fields = HeaderMap.from_wire_items(
        [(b"traceparent", f"00-{TRACE}-{SPAN}-00".encode()), (b"tracestate", state.encode())]
    )
    assert TraceContext.read(fields) == TraceContext(TRACE, SPAN)


def test_a_long_state_is_cut_at_the_end() -> None:
    """At whole members, to 512 bytes."""
    members = [f"k{n}={'v' * 50}" for n in range(20)]
    context = TraceContext.read(_fields(f"00-{TRACE}-{SPAN}-00", state=(",".join(members),)))
    assert context is not None
    assert len(context.state) <= 512
    assert context.state.split(",") == members[: len(context.state.split(","))]


@settings(max_examples=200)
@given(st.binary(max_size=80).filter(lambda data: b"\n" not in data and b"\r" not in data))
def test_any_bytes_are_read_without_failing(data: bytes) -> None:
    """What is read can be written and read again."""
    fields = HeaderMap.from_wire_items([(b"traceparent", data), (b"tracestate", data)])
    context = TraceContext.read(fields)
    if context is not None:
        context.write(fields)
        assert TraceContext.read(fields) == context
