"""Tell the story of the quick start, and check every line of it."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tests.support.certificates import CertificateAuthority

from demo.balancer import EXAMPLE, Balancer, StoryError
from demo.origin import Origin

if TYPE_CHECKING:
    from types import FrameType

    from demo.balancer import Answer

_HOST = "one.one.one.one"
_ROUNDS = 3


def main() -> int:
    """Run the demonstration.

    Returns:
        The exit code: 0 if everything was as told.
    """
    parser = argparse.ArgumentParser(
        prog="tools/dev demo",
        description="Runs the load balancer of the quick start against two local TLS origins.",
    )
    parser.add_argument("--once", action="store_true", help="exit after the checks")
    once: bool = parser.parse_args().once
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with contextlib.ExitStack() as stack:
            _tell(stack, once=once)
    except StoryError as error:
        print(f"\nNot as it should be: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.")
    return 0


def _tell(stack: contextlib.ExitStack, *, once: bool) -> None:
    directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="pingora-demo-"))
    authority = CertificateAuthority(Path(directory), "Demonstration Root")
    origins = []
    for name in ("north", "south"):
        origin = Origin(name, _HOST, authority.issue(_HOST))
        stack.callback(origin.stop)
        origins.append(origin)
    upstreams = [origin.address for origin in origins]
    trust = ["--ca", str(authority.cert_path), "--sni", _HOST]

    _say("Pingora for Python: the quick start, on real sockets")
    _say("")
    for origin in origins:
        _say(f"  origin {origin.name}   https://{origin.address}")
    _say(f"  Both show a certificate for {_HOST}, made a moment ago, and answer")
    _say("  403 to every request whose Host is not that name.")

    with Balancer(upstreams, [*trust, "--no-filter"]) as balancer:
        _without_filter(balancer, origins)
        _stops_cleanly(balancer)
    with Balancer(upstreams, trust) as balancer:
        _with_filter(balancer, origins)
        if once:
            _stops_cleanly(balancer)
            _say("\nAll of it checked.")
            return
        _say("\nIt is still running. Try it, and stop it with Ctrl-C:")
        _say(f"  curl -i http://{balancer.address}/anything")
        balancer.wait()


def _without_filter(balancer: Balancer, origins: list[Origin]) -> None:
    _say(f"\n1. {EXAMPLE} without its upstream_request_filter")
    _say("   It reaches the origins over TLS, but the client's Host passes through:")
    _expect_turns(balancer, origins, 403)


def _with_filter(balancer: Balancer, origins: list[Origin]) -> None:
    _say("\n2. The same with the filter, one line that sets the Host")
    _say("   Now both origins answer, in turn:")
    before = [origin.requests for origin in origins]
    _expect_turns(balancer, origins, 200)
    for origin, old in zip(origins, before, strict=True):
        new = origin.requests - old
        _check(new == _ROUNDS, f"{origin.name} counted {new} requests, not {_ROUNDS}")
    _say(f"   {_ROUNDS} requests for each: round robin.")


def _expect_turns(balancer: Balancer, origins: list[Origin], status: int) -> None:
    names = [origin.name for origin in origins]
    previous = ""
    for number in range(_ROUNDS * len(names)):
        path = f"/page/{number}"
        answer = balancer.ask(path)
        if number < len(names):
            _say(f"     curl http://{balancer.address}{path}  ->  {answer.status}  {answer.text}")
        _check_answer(answer, names, status, previous)
        previous = answer.origin


def _check_answer(answer: Answer, names: list[str], status: int, previous: str) -> None:
    _check(answer.status == status, f"status {answer.status}, not {status}: {answer.text}")
    _check(answer.origin in names, f"none of {names} has answered: {answer.text}")
    _check(answer.origin != previous, f"{previous} answered twice running")


def _stops_cleanly(balancer: Balancer) -> None:
    code = balancer.stop()
    _check(code == 0, f"exit code {code} after SIGTERM\n{balancer.log}")


def _check(fact: bool, complaint: str) -> None:  # noqa: FBT001  # reads as an assertion
    if not fact:
        raise StoryError(complaint)


def _say(text: str) -> None:
    print(text, flush=True)


def _interrupt(_: int, __: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
