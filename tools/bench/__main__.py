"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import os
import pstats
import signal
import sys
import tempfile
from typing import TYPE_CHECKING, NoReturn

from bench.process import BenchError
from bench.report import bars, compare, table
from bench.rig import Rig, say
from bench.scenarios import SCENARIOS, Effort
from bench.servers import PEERS

if TYPE_CHECKING:
    from types import FrameType

    from bench.report import Row


class _Options(argparse.Namespace):
    scenarios: list[str]
    peers: str
    rounds: int
    seconds: float
    only_list: bool
    profile: bool


def main() -> int:
    """Measure and print.

    Returns:
        The exit code: 0 if pingora and nginx were measured in every scenario.
    """
    options = _arguments()
    if options.only_list:
        for name, scenario in SCENARIOS.items():
            print(f"{name:24}{scenario.about}")
        return 0
    # Ends like Ctrl-C, so that every process is stopped and every folder removed.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if options.profile:
            return _profile(options)
        with Rig(options.peers.split(",")) as rig:
            rows = _measure(rig, options)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: stopped", file=sys.stderr)
        return 130
    print(f"\n{table(rows)}")
    lines = bars(rows)
    if lines:
        print("\nBars\n" + "\n".join(f"  {line}" for line in lines))
    broken = [name for name in ("pingora", "nginx") if name in rig.broken]
    if broken:
        print(f"bench: not measured: {', '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


def _measure(rig: Rig, options: _Options) -> list[Row]:
    if rig.cores[0] == rig.cores[1]:
        say("only one core: latencies mean nothing, CPU times suffer")
    say(f"proxy on core {rig.cores[0]}; load and origin on core {rig.cores[1]}")
    effort = Effort(options.rounds, options.seconds)
    rows: list[Row] = []
    for name in options.scenarios:
        say(f"{name}: {SCENARIOS[name].about}")
        measured = SCENARIOS[name].measure(rig, effort, name)
        compare(measured)
        for row in measured:
            print(row.to_json(), flush=True)
        rows += measured
    return rows


def _profile(options: _Options) -> int:
    with tempfile.TemporaryDirectory(prefix="pingora-bench-") as directory:
        os.environ["BENCH_PROFILE"] = f"{directory}/profile"
        with Rig(["pingora"]) as rig:
            _measure(rig, options)
        if rig.broken:
            return 1
        say("under the profiler; own time first, shares count, absolute times do not")
        pstats.Stats(os.environ["BENCH_PROFILE"]).sort_stats("tottime").print_stats(40)
    return 0


def _arguments() -> _Options:
    parser = argparse.ArgumentParser(
        prog="tools/dev bench",
        description="CPU, latency and memory of the proxy beside nginx, HAProxy and others, "
        "measured in turns in one run. JSON lines, then a table.",
    )
    parser.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help="what to measure; all when none is named"
    )
    parser.add_argument(
        "--list", dest="only_list", action="store_true", help="list the scenarios and exit"
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds over all peers (3)")
    parser.add_argument("--seconds", type=float, default=5, help="length of a measurement (5)")
    parser.add_argument("--peers", default=",".join(PEERS), help="only these, with commas")
    parser.add_argument(
        "--profile", action="store_true", help="profile pingora alone in one scenario"
    )
    options = parser.parse_args(namespace=_Options())
    for wanted, known in ((options.scenarios, SCENARIOS), (options.peers.split(","), PEERS)):
        unknown = [name for name in wanted if name not in known]
        if unknown:
            parser.error(f"not known: {', '.join(unknown)}; there are {', '.join(known)}")
    if options.rounds < 1 or options.seconds < 1:
        parser.error("--rounds and --seconds are at least 1")
    options.scenarios = options.scenarios or list(SCENARIOS)
    if options.profile and len(options.scenarios) > 1:
        parser.error("--profile needs one scenario")
    return options


def _interrupt(_: int, __: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
