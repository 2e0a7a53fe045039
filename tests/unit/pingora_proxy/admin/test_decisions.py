"""What the operator has decided."""

from __future__ import annotations

import json

from hypothesis import given, settings, strategies as st

from pingora_proxy.admin.decisions import MAX_DECISIONS, Decision, Decisions

_CHANGES = st.builds(
    Decision,
    st.sampled_from(["backends/drain", "backends/enable", "backends/disable"]),
    st.sampled_from(["web", "db"]),
    st.sampled_from(["a", "b"]),
    st.integers(0, 50),
)


@settings(max_examples=60)
@given(
    st.lists(_CHANGES, max_size=12, unique_by=lambda each: (each.where, each.subject, each.stamp)),
    st.randoms(),
)
def test_the_order_does_not_matter(changes: list[Decision], random: object) -> None:
    """Whichever worker hears of what first: all hold the same in the end."""
    one, other = Decisions(), Decisions()
    for change in changes:
        one.note(change)
    shuffled = list(changes)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for change in shuffled:
        other.note(change)

    assert set(one) == set(other)


def test_they_are_handed_on() -> None:
    """As JSON; what is no decision is passed over."""
    decisions = Decisions()
    first = Decision("backends/drain", "web", "a", 1)
    last = Decision("log-level/debug", "", "", 2)
    for each in (last, first):
        assert decisions.note(each)
    rows = json.loads(json.dumps(decisions.as_rows()))

    assert list(Decisions.from_rows([*rows, [], ["a", "b", "c", "d"], None, 5])) == [first, last]
    assert list(Decisions.from_rows({"no": "list"})) == []
    decisions.forget("log-level")
    assert list(decisions) == [first]


def test_they_are_bounded() -> None:
    """The one that was made longest ago goes."""
    decisions = Decisions()
    for number in range(MAX_DECISIONS + 2):
        decisions.note(Decision("backends/drain", "web", str(number), number))

    assert [each.stamp for each in decisions][:1] == [2]
    assert len(list(decisions)) == MAX_DECISIONS
