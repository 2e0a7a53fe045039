"""The pure part of the Kubernetes source: any input is understood or refused."""

from __future__ import annotations

import contextlib
import json

from hypothesis import given, settings, strategies as st

from pingora_error import Error
from pingora_load_balancing.discovery._endpoint_slices import (
    Gone,
    Lines,
    SliceTable,
    parse_page,
)

_TEXT = st.text(max_size=8) | st.sampled_from(["10.0.0.1", "fd00::1", "a.test", "web-1"])
_BOOL = st.none() | st.booleans()
_ENDPOINT: st.SearchStrategy[dict[str, object]] = st.fixed_dictionaries(
    {},
    optional={
        "addresses": st.none() | st.lists(_TEXT, max_size=2),
        "conditions": st.none()
        | st.fixed_dictionaries(
            {}, optional={"ready": _BOOL, "serving": _BOOL, "terminating": _BOOL}
        ),
        "zone": st.none() | _TEXT,
        "hints": st.none() | st.fixed_dictionaries({"forZones": st.none() | st.just([{}])}),
        "targetRef": st.none() | st.fixed_dictionaries({"name": st.none() | _TEXT}),
    },
)
_SLICE = st.fixed_dictionaries(
    {"metadata": st.fixed_dictionaries({}, optional={"name": _TEXT, "resourceVersion": _TEXT})},
    optional={
        "addressType": st.sampled_from(["IPv4", "IPv6", "FQDN", "", "?"]),
        "endpoints": st.none() | st.lists(_ENDPOINT, max_size=3),
        "ports": st.none()
        | st.lists(
            st.fixed_dictionaries(
                {}, optional={"name": st.none() | _TEXT, "port": st.none() | st.integers(-1, 70000)}
            ),
            max_size=2,
        ),
    },
)
_EVENT = st.fixed_dictionaries(
    {"type": st.sampled_from(["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR", "?"])},
    optional={"object": _SLICE | st.fixed_dictionaries({"code": st.sampled_from([410, 500])})},
)


@settings(max_examples=300, deadline=None)
@given(st.lists(_EVENT, max_size=8), st.none() | st.sampled_from(["http", 80]))
def test_any_events(events: list[object], port: str | int | None) -> None:
    """Whatever comes, the answer has each address once, and nothing else is raised."""
    table = SliceTable(port, ("IPv4", "IPv6", "FQDN"), 5)
    for event in events:
        with contextlib.suppress(Error, Gone):
            table.apply(json.dumps(event).encode())
        found = table.merge().found
        assert len({backend.addr for backend in found.backends}) == len(found.backends) <= 5


@settings(deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes(data: bytes) -> None:
    """Bytes are a page or an event, or are refused."""
    table = SliceTable(None, ["IPv4"], 5)
    for read in (parse_page, table.apply):
        with contextlib.suppress(Error):
            read(data)


@given(st.lists(st.binary(max_size=20)), st.integers(1, 400))
def test_lines(pieces: list[bytes], seed: int) -> None:
    """However a stream is cut into pieces, its lines are the same."""
    lines = Lines(10_000)
    told = [line for piece in pieces for line in lines.feed(piece)]
    told += lines.feed(b"\n")

    assert told == [line for line in b"".join(pieces).split(b"\n") if line.strip()]
