"""Run the drill, print the counts, and compare them with the bars."""

from __future__ import annotations

import argparse
import asyncio
import sys

from tests.support.drill.drill import Drill


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, seconds, what in (
        ("warm-up", 10.0, "seconds before anything happens"),
        ("phase", 10.0, "seconds that the faults last"),
        ("storm", 10.0, "seconds that all backends fail in the end"),
        ("rate", 200.0, "requests per second"),
        ("ejection-time", 2.0, "seconds that the first ejection of a backend lasts"),
    ):
        parser.add_argument(f"--{name}", type=float, default=seconds, help=what)
    args = parser.parse_args()
    report = asyncio.run(Drill(**vars(args)).run())
    sys.stdout.write(f"{report}\n")
    missed = report.missed
    for bar in missed:
        sys.stdout.write(f"missed: {bar}\n")
    return len(missed)


if __name__ == "__main__":
    sys.exit(main())
