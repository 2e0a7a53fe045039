"""Becoming somebody who may do less: the user and group of the configuration.

Theory of operation
-------------------
A server starts as root where it must (ports below 1024, keys that only root reads, a log in
``/var/log``) and then gives that up for good: supplementary groups first, then the group, then
the user, each with its real, effective and saved id, because only while the user is still root
may the others be set. Afterwards it tries to become root again and refuses to go on if that
works.

Names are looked up early, by `find_identity`, so that a misspelt one is told before anything has
started.

Afterwards this cannot be done any more, in this process and in those that it starts: listening on
a port below 1024 that was not open by then, reading files of root (certificates are read again at
a reload: their files have to be readable for the user), removing files from directories of root.
The kernel lets a process that has changed its user dump no core and be traced by nobody but root
(``PR_SET_DUMPABLE``), and that is left so. Environment variables such as ``HOME`` stay as they
are.

Source: pingora-core/src/server/daemon.rs.
"""

from __future__ import annotations

import grp
import logging
import os
import pwd
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn, final

from pingora_core.conf import CONFIG_ERROR
from pingora_error import Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    from pingora_core.conf import ServerConf

__all__ = ["Identity", "check_privileges", "drop_privileges", "find_identity"]

_logger = logging.getLogger(__name__)

_ROOT: Final = 0
# (uid_t) -1 stands for "leave it as it is" in setresuid(2).
_MAX_ID: Final = 2**32 - 2


@final
@dataclass(frozen=True, slots=True)
class Identity:
    """Who a process is to be.

    Attributes:
        user: Name of the user, for messages.
        group: Name of the group, for messages.
        uid: The user.
        gid: The group.
        groups: The supplementary groups, with ``gid`` among them.
    """

    user: str
    group: str
    uid: int
    gid: int
    groups: tuple[int, ...]

    @property
    def is_ours(self) -> bool:
        """Whether this process is that user and group in every respect but the supplementary."""
        return os.getresuid() == (self.uid,) * 3 and os.getresgid() == (self.gid,) * 3

    def __str__(self) -> str:
        return f"{self.user}:{self.group} ({self.uid}:{self.gid})"


def find_identity(conf: ServerConf) -> Identity | None:
    """Look up the user and the group of a configuration.

    Args:
        conf: Names them; digits stand for an id, which needs no entry in the user database as
            long as the group is given too. A user without a group has the group of its entry, a
            group without a user belongs to the user of this process.

    Returns:
        Who to be; None if the configuration names neither, or the user that this process is
        already and no group.

    Raises:
        Error: ``CONFIG_ERROR`` if there is no such user or group.
    """
    if conf.user is None and conf.group is None:
        return None
    group = None if conf.group is None else _find_group(conf)
    if conf.user is None:
        assert group is not None
        name, gid = group
        user = _name_of_user(os.geteuid())
        return Identity(user, name, os.geteuid(), gid, (gid,))
    entry = _find_user(conf)
    if group is None:
        if entry.uid != _ROOT and os.getresuid() == (entry.uid,) * 3:
            # A container or a service manager has chosen the group; who is not root keeps it.
            return None
        if entry.gid is None:
            _refuse(conf, "user", "a user id with a group beside it")
        group = _name_of_group(entry.gid), entry.gid
    name, gid = group
    groups = {gid} if entry.gid is None else {gid, *os.getgrouplist(entry.name, gid)}
    return Identity(entry.name, name, entry.uid, gid, tuple(sorted(groups)))


def check_privileges(conf: ServerConf) -> Identity | None:
    """Check that `drop_privileges` has a chance, without changing anything.

    Args:
        conf: Names the user and the group.

    Returns:
        As `find_identity`.

    Raises:
        Error: ``CONFIG_ERROR`` if there is no such user or group, or this process is not root and
            not what it is to be.
    """
    identity = find_identity(conf)
    if identity is not None and not identity.is_ours and os.geteuid() != _ROOT:
        _refuse_change(conf, identity)
    return identity


def drop_privileges(conf: ServerConf) -> None:
    """Become the user and the group of the configuration for good; this is verified.

    Nothing happens if it names none, or what this process is already. To be called with one
    thread running, before any worker is started.

    Args:
        conf: Names them.

    Raises:
        Error: ``CONFIG_ERROR`` if there is no such user or group, or the system does not allow
            the change; ``INTERNAL_ERROR`` if it took place and can be undone. The process has to
            end then: it may have changed in part.
    """
    identity = find_identity(conf)
    if identity is None or identity.is_ours:
        return
    try:
        os.setgroups(identity.groups)
        os.setresgid(identity.gid, identity.gid, identity.gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)
    except OSError as error:
        _refuse_change(conf, identity, error)
    _verify(identity)
    _logger.info("runs as %s", identity)


# --------------------------------------------------------------------------------- looking up


@dataclass(frozen=True, slots=True)
class _User:
    name: str
    uid: int
    gid: int | None


def _find_user(conf: ServerConf) -> _User:
    name = conf.user
    assert name is not None
    number = _number(name)
    try:
        entry = pwd.getpwnam(name) if number is None else pwd.getpwuid(number)
    except KeyError as error:
        if number is not None:
            return _User(name, number, None)
        _refuse(conf, "user", "a user that this system has", error)
    return _User(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _find_group(conf: ServerConf) -> tuple[str, int]:
    name = conf.group
    assert name is not None
    number = _number(name)
    if number is not None:
        return _name_of_group(number), number
    try:
        entry = grp.getgrnam(name)
    except KeyError as error:
        _refuse(conf, "group", "a group that this system has", error)
    return entry.gr_name, entry.gr_gid


def _number(name: str) -> int | None:
    # Names of digits only are not allowed by useradd(8), so there is nothing to confuse.
    if not (name.isascii() and name.isdecimal()):
        return None
    number = int(name)
    return number if number <= _MAX_ID else None


def _name_of_user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _name_of_group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


# ------------------------------------------------------------------------------------ refusing


def _verify(identity: Identity) -> None:
    if not identity.is_ours or set(os.getgroups()) != set(identity.groups):
        _distrust(f"this process should be {identity} by now and is not")
    if identity.uid == _ROOT:
        return
    # CAP_SETUID, which security bits can keep across the change, would be enough to undo it.
    with suppress(OSError):
        os.setresuid(_ROOT, _ROOT, _ROOT)
    if identity.gid != _ROOT:
        with suppress(OSError):
            os.setresgid(_ROOT, _ROOT, _ROOT)
    if not identity.is_ours:
        _distrust(f"this process should be {identity} for good and could become root again")


def _distrust(problem: str) -> NoReturn:
    raise Error(ErrorType.INTERNAL_ERROR, problem, source=ErrorSource.INTERNAL)


def _refuse_change(conf: ServerConf, identity: Identity, error: OSError | None = None) -> NoReturn:
    ours = f"{_name_of_user(os.geteuid())}:{_name_of_group(os.getegid())}"
    why = "only root may do that" if error is None else error.strerror
    allowed = f"what {ours} may become, not {identity}: {why}"
    _refuse(conf, "group" if conf.user is None else "user", allowed, error)


def _refuse(
    conf: ServerConf, key: str, allowed: str, cause: BaseException | None = None
) -> NoReturn:
    line = conf.problem(key, allowed)
    raise Error(CONFIG_ERROR, line, source=ErrorSource.INTERNAL, cause=cause)
