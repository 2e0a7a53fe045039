"""The verbs of ``tools/dev`` and their arguments."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from typing import TYPE_CHECKING

from devtool.api import api
from devtool.build import build
from devtool.check import check
from devtool.environments import environment, hatch, hatch_variables
from devtool.golang import missing_h2spec, require_h2spec
from devtool.nodejs import missing_cache_tests, require_cache_tests
from devtool.release import release
from devtool.shell import ROOT, VerbError, replace_process, run, say
from devtool.system import install, missing_packages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import TypeAlias

    _Verb: TypeAlias = Callable[[argparse.Namespace, list[str]], None]

__all__ = ["main"]

_LEFTOVERS = (
    "dist", "build", "site", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis",
    ".import_linter_cache",
)  # fmt: skip
_PASS_ON = ("demo", "test", "lowest", "bench", "conformance")
_PYTHONPATH = {"PYTHONPATH": f"{ROOT / 'tools'}:{ROOT}"}


def main(arguments: Sequence[str]) -> int:
    """Run one verb.

    Args:
        arguments: The command line without the program's name.

    Returns:
        The exit code: 0, 1 when something failed, 2 for a wrong command line.
    """
    # What follows one of these verbs is another program's: argparse would reorder or refuse it.
    own = 1 if arguments and arguments[0] in _PASS_ON else len(arguments)
    options = _parser().parse_args(arguments[:own])
    verb: _Verb = options.run
    rest = list(arguments[own:])
    try:
        verb(options, rest)
    except VerbError as failure:
        print(f"tools/dev {options.verb}: {failure}", file=sys.stderr)
        return failure.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/dev",
        description="Everything that is done with this repository. Needs Python 3.11 and nothing "
        "else: the first use makes .venv with all that is needed.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def add(name: str, run_verb: _Verb, text: str) -> argparse.ArgumentParser:
        verb = verbs.add_parser(name, help=text, description=text)
        verb.set_defaults(run=run_verb)
        return verb

    add("demo", _demo, "run the quick start on real sockets (--once: check it and exit)")
    add("test", _test, "run the tests; arguments go to pytest")
    checks = add("check", _check, "format, lint, types, layers, declared dependencies")
    checks.add_argument("--fix", action="store_true", help="let ruff mend what it can first")
    add("bench", _bench, "measure the proxy beside nginx and others (--help: scenarios)")
    add("conformance", _conformance, "run foreign test suites against our servers (--help: which)")
    add("build", _build, "build every wheel and sdist, and prove each wheel alone")
    add("api", _api, "whether public interfaces are typed, and what has changed in them")
    new = add("release", _release, "prepare a release of one package; nothing is uploaded")
    new.add_argument("package", metavar="PACKAGE")
    new.add_argument("version", metavar="VERSION")
    new.add_argument("--dry-run", action="store_true", help="leave the tree as it was")
    add("lowest", _lowest, "run the tests with the oldest releases that the packages allow")
    docs = add("docs", _docs, "build the documentation into site/, strictly")
    docs.add_argument("--serve", action="store_true", help="serve it and follow changes instead")
    add("deps", _deps, "install the programs that tests and benchmark use (Debian, root; Go, npm)")
    clean = add("clean", _clean, "remove what builds and checks left behind")
    clean.add_argument("--all", action="store_true", help="remove the environments too")
    return parser


def _demo(_: argparse.Namespace, rest: list[str]) -> None:
    python = environment() / "python"
    replace_process(python, "-m", "demo", *rest, environment=_PYTHONPATH)


def _test(_: argparse.Namespace, rest: list[str]) -> None:
    _pytest(environment(), rest)


def _pytest(programs: Path, rest: list[str], *options: str) -> None:
    pytest: list[str | Path] = [programs / "python", "-m", "pytest", *options]
    if rest:
        replace_process(*pytest, *rest)
    # All of them: on two processes, a file on one of them. Some tests look at messages in which
    # a path is cut where it is long, a Unix socket has at most 107 bytes of path, and processes
    # add to the path of their temporary files.
    with tempfile.TemporaryDirectory(prefix="pt", dir="/tmp") as name:
        temporary = f"--basetemp={name}/t"
        run(*pytest, "--numprocesses=2", "--dist=loadfile", "--quiet", temporary)


def _check(options: argparse.Namespace, _: list[str]) -> None:
    fix: bool = options.fix
    check(fix=fix)


def _bench(_: argparse.Namespace, rest: list[str]) -> None:
    variables = dict(_PYTHONPATH)
    python = environment() / "python"
    if not _only_asks(rest):
        try:
            variables["BENCH_PEERS_PYTHON"] = str(environment("bench") / "python")
        except VerbError as failure:
            say(f"without the peers written in Python: {failure}")
    replace_process(python, "-m", "bench", *rest, environment=variables)


def _conformance(_: argparse.Namespace, rest: list[str]) -> None:
    variables = dict(_PYTHONPATH)
    python = environment() / "python"
    if not _only_asks(rest):
        # A suite that cannot be had is told as such in the results; the others run.
        for require in (require_h2spec, require_cache_tests):
            try:
                require()
            except VerbError as failure:
                say(f"without a suite: {failure}")
        try:
            variables["CONFORMANCE_PROGRAMS"] = str(environment("conformance"))
        except VerbError as failure:
            say(f"without the suites from Python packages: {failure}")
        missing = missing_packages()
        if missing:
            say(f"not installed here: {' '.join(missing)} (./tools/dev deps)")
    replace_process(python, "-m", "conformance", *rest, environment=variables)


def _only_asks(rest: list[str]) -> bool:
    return not {"-h", "--help", "--list"}.isdisjoint(rest)


def _build(_: argparse.Namespace, __: list[str]) -> None:
    build()


def _api(_: argparse.Namespace, __: list[str]) -> None:
    api()


def _release(options: argparse.Namespace, _: list[str]) -> None:
    package: str = options.package
    version: str = options.version
    dry_run: bool = options.dry_run
    release(package, version, dry_run=dry_run)


def _lowest(_: argparse.Namespace, rest: list[str]) -> None:
    # What the oldest pytest-asyncio leaves behind, an event loop after some tests, is not ours.
    theirs = "ignore::pytest.PytestUnraisableExceptionWarning"
    _pytest(environment("lowest"), rest, "-W", theirs)


def _docs(options: argparse.Namespace, _: list[str]) -> None:
    environment("docs")
    serve: bool = options.serve
    script = "docs:serve" if serve else "docs:build"
    run(*hatch("run", script), environment=hatch_variables())


def _deps(_: argparse.Namespace, __: list[str]) -> None:
    install()
    suites = ((missing_h2spec, require_h2spec), (missing_cache_tests, require_cache_tests))
    for missing, require in suites:
        reason = missing()
        if reason:
            say(f"not installed: {reason}")
        else:
            require()


def _clean(options: argparse.Namespace, _: list[str]) -> None:
    everything: bool = options.all
    for name in (*_LEFTOVERS, *([".venv"] if everything else [])):
        shutil.rmtree(ROOT / name, ignore_errors=True)
    for top in ("packages", "tests", "tools", "examples"):
        for cache in (ROOT / top).rglob("__pycache__"):
            shutil.rmtree(cache, ignore_errors=True)
