"""find_changes: what a reload can take over, and what it cannot."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from pingora_core.conf import ServerConf, find_changes
from pingora_core.conf._keys import ACCEPTED, LIVE, RESTART, ServerKeys

RUNNING = ServerConf(workers=2)


def test_every_key_has_one_answer() -> None:
    """Each key is live, needs a restart, or has no meaning: one of the three."""
    keys = {each.name for each in fields(ServerKeys)}

    assert keys == LIVE | RESTART | ACCEPTED
    assert len(LIVE) + len(RESTART) + len(ACCEPTED) == len(keys)


def test_nothing_has_changed() -> None:
    """The same configuration, wherever it came from, is no change."""
    changes = find_changes(RUNNING, replace(RUNNING, source="x", version=3, work_stealing=False))

    assert not changes
    assert str(changes) == "nothing has changed"


def test_changes_are_sorted_by_what_they_need() -> None:
    """What a running server takes over, what only a new one does, and what the application has."""
    running = replace(RUNNING, extra={"same": 1, "other": 1, "gone": None})
    loaded = replace(
        RUNNING,
        workers=3,
        log_level="debug",
        user="nobody",
        pid_file="/x",
        extra={"same": 1, "other": 2, "new": 1},
    )

    changes = find_changes(running, loaded)

    assert changes
    assert changes.live == ("log_level", "workers")
    assert changes.restart == ("pid_file", "user")
    assert changes.sections == ("gone", "new", "other")
    assert str(changes) == (
        "takes effect: log_level, workers; needs a restart or an upgrade: pid_file, user; "
        "for the application: gone, new, other"
    )


def test_the_server_goes_on_with_what_it_cannot_change() -> None:
    """The effective configuration has the new values but for the keys that need a restart."""
    loaded = replace(RUNNING, workers=3, user="nobody", extra={"a": 1}, version=2)

    effective = find_changes(RUNNING, loaded).effective

    assert effective == replace(loaded, user=None)


@pytest.mark.parametrize(
    ("running", "is_supervised", "loaded", "live", "restart"),
    [
        (ServerConf(), None, ServerConf(workers=2), (), ("workers",)),
        (ServerConf(), None, ServerConf(worker_max_requests=1), (), ("worker_max_requests",)),
        (ServerConf(), None, ServerConf(worker_restart_limit=1), ("worker_restart_limit",), ()),
        (ServerConf(), True, ServerConf(workers=2), ("workers",), ()),
        (ServerConf(workers=2), None, ServerConf(), ("workers",), ()),
        (ServerConf(workers=2), False, ServerConf(workers=3), (), ("workers",)),
    ],
)
def test_workers_need_a_supervisor(
    running: ServerConf,
    is_supervised: bool | None,
    loaded: ServerConf,
    live: tuple[str, ...],
    restart: tuple[str, ...],
) -> None:
    """A single process cannot become one; a supervisor goes on also with one worker."""
    changes = find_changes(running, loaded, is_supervised=is_supervised)

    assert (changes.live, changes.restart) == (live, restart)
