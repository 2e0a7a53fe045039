"""A program that goes to the background; it does what its arguments say and reports what it is.

Run by tests as a script. It ends by itself after a while, should nobody end it.
"""

from __future__ import annotations

import encodings.utf_8_sig  # noqa: F401 - whoever starts it may not be able to read it
import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path

from pingora_core import Opt
from pingora_core.conf import ServerConf
from pingora_core.server.process import exit_on_error, say
from pingora_core.server.system.daemon import daemonize, leave_parent, resolve_paths
from pingora_core.server.system.pid_file import PidFile
from pingora_core.server.system.privileges import drop_privileges, find_identity
from pingora_core.server.system.systemd import inherited_sockets, notify_main_pid, notify_ready
from pingora_error import Error

_MOST_SECONDS = 120


def _descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - Path.iterdir would hold one itself
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115 - not a path
        except OSError:
            continue
    return found


def _report(path: Path, problem: str = "") -> None:
    umask = os.umask(0)
    os.umask(umask)
    facts: dict[str, object] = {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "session": os.getsid(0),
        "umask": umask,
        "cwd": str(Path.cwd()),
        "user": os.getresuid(),
        "group": os.getresgid(),
        "groups": sorted(os.getgroups()),
        "descriptors": _descriptors(),
        "sockets": sorted(inherited_sockets()),
        "watchdog_pid": os.environ.get("WATCHDOG_PID", ""),
        "problem": problem,
    }
    whole = path.with_suffix(".new")
    whole.write_text(json.dumps(facts), encoding="utf-8")
    whole.rename(path)


def main() -> None:
    """Go to the background and act."""
    parser = Opt.parser()
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("--act", default="ready")
    parser.add_argument("--leave", action="store_true", help="lose the parent, no more")
    parser.add_argument("--as", type=int, dest="user", help="who starts it")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    act: str = args.act
    report: Path = args.report
    if args.user is not None:
        os.setgroups([])
        os.setresgid(args.user, args.user, args.user)
        os.setresuid(args.user, args.user, args.user)
    if act == "thread":
        threading.Thread(target=threading.Event().wait, name="early bird", daemon=True).start()

    with exit_on_error():
        conf = resolve_paths(ServerConf.from_opt(Opt.from_namespace(args)))
        pipe = leave_parent(conf) if args.leave else daemonize(conf)
    signal.alarm(_MOST_SECONDS)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    if act == "die":
        _report(report)
        os.kill(os.getpid(), signal.SIGKILL)
    file = PidFile(conf.pid_file)
    try:
        file.write(find_identity(conf))
        drop_privileges(conf)
    except Error as error:
        _report(report, error.context)
        say(f"error: {error.context}")
        pipe.say_failed(error.context, 2)
        raise SystemExit(2) from error
    sys.stdout.write("to nowhere\n")
    say("in the background")
    _report(report)
    if act == "fail":
        pipe.say_failed("the ground is\nwet", 3)
    elif act == "next":
        pipe.say_next_step("waits for the old server")
    elif act != "hang":
        notify_main_pid(os.getpid())
        notify_ready()
        pipe.say_ready()
    signal.sigwait({signal.SIGTERM})
    file.remove()
    sys.exit(0)


if __name__ == "__main__":
    main()
