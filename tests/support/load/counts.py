"""What happened to the requests of one sort of client."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Counts", "failures_of", "table"]

_MOST_EXAMPLES = 10


@dataclass(slots=True)
class Counts:
    """The counts.

    Attributes:
        name: The sort of client.
        requests: Requests, messages or events that were answered as they should be.
        connections: Connections that were opened.
        reconnects: Connections that the server ended in order.
        raced: Requests sent again because the connection they were sent on had been ended by
            the server before it could see them: RFC 9112, 9.3.1; RFC 9113, 8.7.
        resets: Connections that were reset where the above does not excuse it.
        failures: All other ends, and the resets, by kind.
        examples: The first failures, with their time.
    """

    name: str
    requests: int = 0
    connections: int = 0
    reconnects: int = 0
    raced: int = 0
    resets: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """How many failures there were."""
        return self.failures.total()

    def fail(self, kind: str, detail: object = "") -> None:
        """Count a failure.

        Args:
            kind: What sort of failure.
            detail: More about this one.
        """
        self.failures[kind] += 1
        if len(self.examples) < _MOST_EXAMPLES:
            self.examples.append(f"{time.strftime('%H:%M:%S')} {self.name}: {kind} {detail}")

    def add(self, other: Counts) -> None:
        """Add what another client of the same sort has counted.

        Args:
            other: Its counts.
        """
        self.requests += other.requests
        self.connections += other.connections
        self.reconnects += other.reconnects
        self.raced += other.raced
        self.resets += other.resets
        self.failures += other.failures
        self.examples = (self.examples + other.examples)[:_MOST_EXAMPLES]

    def to_json(self) -> str:
        """Write the counts on one line."""
        return json.dumps({each.name: getattr(self, each.name) for each in fields(self)})

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Read what `to_json` has written.

        Args:
            line: The line.
        """
        counts = cls(**json.loads(line))
        counts.failures = Counter(counts.failures)
        return counts


def table(counts: Iterable[Counts]) -> str:
    """Lay counts out for reading, the failures below.

    Args:
        counts: Of all sorts.

    Returns:
        Lines of text.
    """
    rows = list(counts)
    head = f"{'client':12}{'requests':>10}{'connections':>13}{'reconnects':>12}"
    lines = [f"{head}{'raced':>7}{'resets':>8}{'failed':>8}"]
    lines.extend(
        f"{row.name:12}{row.requests:10}{row.connections:13}{row.reconnects:12}"
        f"{row.raced:7}{row.resets:8}{row.failed:8}"
        for row in [*rows, _sum_of(rows)]
    )
    for row in rows:
        lines.extend(f"  {row.name}: {count} x {kind}" for kind, count in row.failures.items())
        lines.extend(f"    {example}" for example in row.examples)
    return "\n".join(lines)


def failures_of(counts: Iterable[Counts]) -> list[str]:
    """Tell everything that went wrong.

    Args:
        counts: Of all sorts.

    Returns:
        One line a failure, as far as they are kept; empty if there were none.
    """
    lines = []
    for row in counts:
        if row.failed or row.resets:
            lines += row.examples or [f"{row.name}: {row.resets} resets"]
    return lines


def _sum_of(rows: Iterable[Counts]) -> Counts:
    total = Counts("all")
    for row in rows:
        total.add(row)
    return total
