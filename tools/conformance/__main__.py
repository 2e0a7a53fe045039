"""The command line of the conformance suites."""

from __future__ import annotations

import argparse
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from bench.process import BenchError
from conformance import cache_tests, clients, h2spec, tls_scans, websocket
from conformance.rig import PATH, Rig, say
from conformance.score import Score, SuiteError, markdown, replace_block, table
from conformance.upgrade_soak.__main__ import main as upgrade_soak
from devtool.shell import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from conformance.rig import Engine

_PAGE = ROOT / "docs" / "conformance.md"


class _Options(argparse.Namespace):
    suites: list[str]
    only_list: bool
    quick: bool


@dataclass(frozen=True, slots=True)
class _Suite:
    about: str
    run: Callable[[Rig, _Options], list[Score]]


def main() -> int:
    """Run the suites, print the scores, and write them into the documentation.

    Returns:
        The exit code: 0 if every bar was met.
    """
    if sys.argv[1:2] == ["upgrade_soak"]:
        return upgrade_soak(sys.argv[2:])
    options = _arguments()
    if options.only_list:
        for name, suite in _SUITES.items():
            print(f"{name:12}{suite.about}")
        return 0
    # Ends like Ctrl-C, so that every process is stopped and every folder removed.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with Rig() as rig:
            scores = [score for name in options.suites for score in _run(rig, name, options)]
    except BenchError as error:
        print(f"conformance: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("conformance: stopped", file=sys.stderr)
        return 130
    print(table(scores))
    missed = [score for score in scores if not score.is_met]
    if missed:
        print(f"conformance: {len(missed)} of {len(scores)} bars missed", file=sys.stderr)
    return 1 if missed else 0


def _run(rig: Rig, name: str, options: _Options) -> list[Score]:
    say(f"{name}: {_SUITES[name].about}")
    try:
        scores = _SUITES[name].run(rig, options)
    except (SuiteError, BenchError) as error:
        return [Score.not_run(name, "-", str(error))]
    if not options.quick:
        page = replace_block(_PAGE.read_text(), name, markdown(scores))
        _PAGE.write_text(page)
    return scores


def _h2spec(rig: Rig, _: _Options) -> list[Score]:
    engines: tuple[Engine, ...] = ("h2", "jh2")
    scores = []
    for engine in engines:
        with rig.proxy(engine=engine) as proxy:
            for tls in (False, True):
                report = h2spec.run(proxy.tls if tls else proxy.plain, path=PATH, tls=tls)
                scores.append(h2spec.score(report, tls=tls, engine=engine))
    return scores


def _cache_tests(rig: Rig, _: _Options) -> list[Score]:
    known = cache_tests.listed(cache_tests.LIST.read_text())
    with cache_tests.pingora_cache(rig) as port:
        scores = cache_tests.scores(cache_tests.run(port), known)
    with cache_tests.nginx_cache(rig) as port:
        return scores + cache_tests.nginx_scores(cache_tests.run(port))


_SUITES = {
    "cache_tests": _Suite("http-cache-tests against a cache, and against nginx", _cache_tests),
    "h2spec": _Suite("HTTP/2 as RFC 7540 and 7541 say, strict cases too", _h2spec),
    "clients": _Suite("nghttp and h2load: many requests at once", lambda rig, _: clients.run(rig)),
    "sslyze": _Suite(
        "TLS against Mozilla's intermediate profile", lambda rig, _: tls_scans.run_sslyze(rig)
    ),
    "testssl": _Suite(
        "TLS configuration and known weaknesses", lambda rig, _: tls_scans.run_testssl(rig)
    ),
    "websocket": _Suite(
        "Autobahn's cases (kosoku) behind the proxy and without it, about 15 minutes",
        lambda rig, options: websocket.run(rig, quick=options.quick),
    ),
}


def _arguments() -> _Options:
    parser = argparse.ArgumentParser(
        prog="tools/dev conformance",
        description="Runs foreign test suites against our servers, prints the scores and writes "
        f"them into {_PAGE.relative_to(ROOT)}. Our own tests: ./tools/dev test tests/conformance. "
        "Upgrades and reloads under load: ./tools/dev conformance upgrade_soak --help",
    )
    parser.add_argument(
        "suites", nargs="*", metavar="SUITE", help="what to run; all when none is named"
    )
    parser.add_argument("--list", dest="only_list", action="store_true", help="list the suites")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="leave out the slow WebSocket cases, and the documentation as it is",
    )
    options = parser.parse_args(namespace=_Options())
    unknown = [name for name in options.suites if name not in _SUITES]
    if unknown:
        parser.error(f"not known: {', '.join(unknown)}; there are {', '.join(_SUITES)}")
    options.suites = options.suites or list(_SUITES)
    return options


def _interrupt(_: int, __: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
