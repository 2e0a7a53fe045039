"""What the operator has decided, so that every worker knows it, those that come later as well; no I/O.

Theory of operation. A worker that is told something tells the others, and each notes it, with the moment
at which the first one was told: of what two workers are told at the same time about the same thing, all
come to hold the later. A worker that takes the place of another one asks the others what they have noted.
The moments are of the system's monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MAX_DECISIONS", "Decision", "Decisions"]

MAX_DECISIONS: Final = 4096
"""How many are kept; beyond, those that were made longest ago are not told to workers to come."""


class Decision(NamedTuple):
    """Something that was decided.

    Attributes:
        what: The change, such as ``backends/drain``.
        where: What it is about, such as the name of the pool.
        subject: What of that, such as an address; empty if there is nothing to tell apart.
        stamp: When, nanoseconds of the monotonic clock.
    """

    what: str
    where: str
    subject: str
    stamp: int


@final
class Decisions:
    """The last decision about each thing.

    Examples:
        >>> decisions = Decisions()
        >>> decisions.note(Decision("backends/drain", "web", "10.0.0.1:80", 2))
        True
        >>> decisions.note(Decision("backends/enable", "web", "10.0.0.1:80", 1))
        False
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str], Decision] = {}

    def __iter__(self) -> Iterator[Decision]:
        return iter(sorted(self._known.values(), key=lambda each: each.stamp))

    def note(self, decision: Decision) -> bool:
        """Note a decision, if none that is later is known.

        Args:
            decision: It.

        Returns:
            Whether it counts, and is to be carried out.
        """
        key = _key(decision)
        known = self._known.get(key)
        if known is not None and known.stamp >= decision.stamp:
            return False
        self._known[key] = decision
        if len(self._known) > MAX_DECISIONS:
            del self._known[_key(min(self._known.values(), key=lambda each: each.stamp))]
        return True

    def forget(self, what: str) -> None:
        """Forget what was decided about something, because something else decides it now.

        Args:
            what: The first part of its name, up to the slash.
        """
        self._known = {key: each for key, each in self._known.items() if key[0] != what}

    def as_rows(self) -> list[list[object]]:
        """Write all down.

        Returns:
            They for JSON, the oldest first.
        """
        return [list(decision) for decision in self]

    @staticmethod
    def from_rows(rows: object) -> Iterator[Decision]:
        """Read what `as_rows` wrote.

        Args:
            rows: What came as JSON; what is no decision is passed over.

        Yields:
            The decisions.
        """
        if not isinstance(rows, list):
            return
        for row in rows[:MAX_DECISIONS]:
            match row:
                case [str(what), str(where), str(subject), int(stamp)]:
                    yield Decision(what, where, subject, stamp)
                case _:
                    pass


def _key(decision: Decision) -> tuple[str, str, str]:
    return decision.what.partition("/")[0], decision.where, decision.subject
