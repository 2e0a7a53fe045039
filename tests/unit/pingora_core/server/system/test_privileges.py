"""Becoming the user and group of the configuration: looked up, done for good, or refused."""

from __future__ import annotations

import grp
import os
import pwd
from typing import TYPE_CHECKING

import pytest

from pingora_core.conf import CONFIG_ERROR, ServerConf
from pingora_core.server.system.privileges import (
    Identity,
    check_privileges,
    drop_privileges,
    find_identity,
)
from pingora_error import Error, ErrorType
from tests.support.in_child import NOBODY, in_child

if TYPE_CHECKING:
    from collections.abc import Callable

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")


def name_of(uid: int) -> str:
    return pwd.getpwuid(uid).pw_name


def conf(user: str | None = None, group: str | None = None) -> ServerConf:
    return ServerConf(user=user, group=group, source="server.yaml")


def refusal(function: Callable[[ServerConf], object], given: ServerConf) -> str:
    with pytest.raises(Error) as raised:
        function(given)
    assert raised.value.etype == CONFIG_ERROR
    assert "\n" not in raised.value.context
    return raised.value.context


# --------------------------------------------------------------------------------- looking up


def test_nothing_configured_is_nobody_to_become() -> None:
    """Without user and group the process stays who it is."""
    assert find_identity(conf()) is None
    drop_privileges(conf())


@pytest.mark.parametrize("user", [name_of(0), "0"])
def test_a_user_brings_its_group_along(user: str) -> None:
    """By name or by id; the supplementary groups hold the group itself."""
    found = find_identity(conf(user))

    assert found is not None
    assert (found.user, found.uid, found.gid) == (name_of(0), 0, pwd.getpwuid(0).pw_gid)
    assert found.gid in found.groups
    assert found.is_ours == (os.geteuid() == 0)


def test_a_group_of_its_own_takes_the_place_of_the_user_s() -> None:
    """User and group are chosen apart from each other."""
    group = grp.getgrall()[-1]
    found = find_identity(conf(name_of(0), group.gr_name))
    assert found is not None
    assert (found.uid, found.gid, found.group) == (0, group.gr_gid, group.gr_name)
    assert group.gr_gid in found.groups


def test_a_group_alone_leaves_the_user() -> None:
    """Only the group is changed then."""
    found = find_identity(conf(group=str(os.getegid())))
    assert found is not None
    assert (found.uid, found.gid, found.groups) == (os.geteuid(), os.getegid(), (os.getegid(),))


def test_ids_need_no_entry_in_the_user_database() -> None:
    """As in containers: digits are enough, if the group is told too."""
    found = find_identity(conf("54321", "54322"))
    assert found is not None
    assert found == Identity("54321", "54322", 54321, 54322, (54322,))
    assert str(found) == "54321:54322 (54321:54322)"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (conf("no-such-user"), "user: got 'no-such-user', allowed: a user that this system has"),
        (conf("99999999999"), "user: got '99999999999', allowed: a user that this system has"),
        (conf("54321"), "user: got '54321', allowed: a user id with a group beside it"),
        (
            conf("0", "no-such-group"),
            "group: got 'no-such-group', allowed: a group that this system has",
        ),
    ],
    ids=["user", "number too large", "number without a group", "group"],
)
@pytest.mark.parametrize("function", [find_identity, check_privileges, drop_privileges])
def test_who_does_not_exist_is_refused(
    given: ServerConf, said: str, function: Callable[[ServerConf], object]
) -> None:
    """One line: file, key, value, what is allowed."""
    assert refusal(function, given) == f"server.yaml: {said}"


# ----------------------------------------------------------------------------------- becoming


def test_who_a_process_is_already_it_may_become() -> None:
    """No root is needed to stay who one is; nothing happens."""
    ours = conf(str(os.geteuid()), str(os.getegid()))
    groups = os.getgroups()

    drop_privileges(ours)

    assert check_privileges(ours) is not None
    assert os.getgroups() == groups


@needs_root
def test_an_ordinary_user_keeps_the_group_it_was_started_with() -> None:
    """Its own name in the configuration is no wish to change the group."""

    def drop() -> tuple[int, int]:
        os.setresgid(1, 1, 1)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        drop_privileges(conf(name_of(NOBODY)))
        return os.geteuid(), os.getegid()

    assert in_child(drop) == (NOBODY, 1)


@needs_root
def test_root_becomes_somebody_else_for_good() -> None:
    """Every id and every group is the new one's, and there is no way back."""

    def drop() -> list[object]:
        os.setgroups([0, 1, 2])
        drop_privileges(conf(name_of(NOBODY)))
        try:
            os.setuid(0)
        except PermissionError:
            back = False
        else:
            back = True
        return [os.getresuid(), os.getresgid(), os.getgroups(), back]

    gid = pwd.getpwuid(NOBODY).pw_gid
    assert in_child(drop) == [(NOBODY,) * 3, (gid,) * 3, [gid], False]


@needs_root
def test_root_changes_its_group_alone() -> None:
    """The user stays, the supplementary groups go."""

    def drop() -> list[object]:
        drop_privileges(conf(group="54322"))
        return [os.getresuid(), os.getresgid(), os.getgroups()]

    assert in_child(drop) == [(0,) * 3, (54322,) * 3, [54322]]


@needs_root
@pytest.mark.parametrize("given", [conf("root"), conf(group="0")], ids=["user", "group"])
@pytest.mark.parametrize("function", [check_privileges, drop_privileges])
def test_who_is_not_root_is_refused(
    given: ServerConf, function: Callable[[ServerConf], object]
) -> None:
    """The line says who is asked for, and by whom."""
    context = in_child(lambda: refusal(function, given), user=NOBODY)

    name, group = name_of(NOBODY), grp.getgrgid(NOBODY).gr_name
    assert f"allowed: what {name}:{group} may become" in context
    wanted = name_of(0) if given.user else name
    assert f"not {wanted}:{grp.getgrgid(0).gr_name} (" in context


def test_root_without_the_capability_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that drops capabilities: the system's reason is told."""

    def refuse(groups: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "setgroups", refuse)

    context = refusal(drop_privileges, conf("54321", "54322"))

    assert context.endswith("not 54321:54322 (54321:54322): Operation not permitted")


class _Process:
    """A process that says yes to everything and means it, or not."""

    def __init__(self, *, obeys: bool, keeps: bool) -> None:
        self.ids = {"user": (0, 0, 0), "group": (0, 0, 0)}
        self.groups = [0]
        self._obeys = obeys
        self._keeps = keeps

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "getresuid", lambda: self.ids["user"])
        monkeypatch.setattr(os, "getresgid", lambda: self.ids["group"])
        monkeypatch.setattr(os, "getgroups", lambda: self.groups)
        monkeypatch.setattr(os, "setgroups", lambda groups: setattr(self, "groups", list(groups)))
        monkeypatch.setattr(os, "setresuid", lambda *ids: self._set("user", ids))
        monkeypatch.setattr(os, "setresgid", lambda *ids: self._set("group", ids))

    def _set(self, key: str, ids: tuple[int, int, int]) -> None:
        if ids == (0, 0, 0) and not self._keeps:
            raise PermissionError(1, "Operation not permitted")
        if self._obeys:
            self.ids[key] = ids


@pytest.mark.parametrize(
    ("obeys", "keeps", "said"),
    [
        (False, False, "should be 54321:54322 (54321:54322) by now and is not"),
        (True, True, "could become root again"),
    ],
    ids=["not changed", "not for good"],
)
def test_a_change_that_did_not_take_place_is_found_out(
    monkeypatch: pytest.MonkeyPatch, obeys: bool, keeps: bool, said: str
) -> None:
    """The system's yes is not believed."""
    _Process(obeys=obeys, keeps=keeps).install(monkeypatch)

    with pytest.raises(Error, match="this process") as raised:
        drop_privileges(conf("54321", "54322"))

    assert raised.value.etype is ErrorType.INTERNAL_ERROR
    assert said in raised.value.context


def test_a_change_that_holds_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The counterpart of the test above."""
    process = _Process(obeys=True, keeps=False)
    process.install(monkeypatch)

    drop_privileges(conf("54321", "54322"))

    assert process.ids == {"user": (54321,) * 3, "group": (54322,) * 3}
    assert process.groups == [54322]
