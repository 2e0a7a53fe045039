"""Checks of a configuration: what ``-t`` finds, how it is told, and that nothing is touched."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pingora_core.conf import CONFIG_ERROR, Opt, ServerConf
from pingora_core.listeners.l4 import TcpServerAddress
from pingora_core.server.checks import Findings, check_configuration, check_services
from pingora_core.services import Service
from pingora_error import Error, ErrorType
from tests.support.certificates import CertificateAuthority

if TYPE_CHECKING:
    from pingora_core.listeners.l4 import ServerAddress
    from pingora_core.services import ServiceContext

needs_rights = pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")


def problems(conf: ServerConf, *, upgrade: bool = False, reload: bool = False) -> list[str]:
    return check_configuration(conf, upgrade=upgrade, reload=reload).problems


def test_the_defaults_are_fine() -> None:
    """A server needs no configuration."""
    assert check_configuration(ServerConf()) == Findings()


# --------------------------------------------------------------------------------------- ca_file


def test_a_ca_file_is_read(tmp_path: Path) -> None:
    """One with certificates is accepted."""
    authority = CertificateAuthority(tmp_path)

    assert problems(ServerConf(ca_file=str(authority.cert_path))) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "(No such file or directory)"),
        (b"", "(Unable to load PEM file)"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "("),
    ],
)
def test_a_ca_file_that_is_none(tmp_path: Path, content: bytes | None, reason: str) -> None:
    """It is told what is wrong with it, and from where the value is."""
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    from_file = ServerConf.from_yaml(f"ca_file: {path}", source="c.yaml")
    from_environment = ServerConf.from_opt(Opt(), {"PINGORA_CA_FILE": str(path)})

    (first,) = problems(from_file)
    (second,) = problems(from_environment)

    said = f"got '{path}', allowed: a PEM file with certificates that can be read {reason}"
    assert first.startswith(f"c.yaml: ca_file: {said}")
    assert second.startswith(f"environment variable PINGORA_CA_FILE: {said}")


# ---------------------------------------------------------------------------------- the background


def test_the_files_of_a_server_in_the_background_are_looked_at(tmp_path: Path) -> None:
    """All at once; and none of them in the foreground, where nobody uses them."""
    conf = ServerConf(
        daemon=True,
        pid_file=f"{tmp_path}/run/pid",
        error_log=f"{tmp_path}/log/error",
        working_directory=f"{tmp_path}/srv",
    )

    missing = "No such file or directory"
    folder = f"a directory that can be entered ({missing})"
    log = f"a file that can be written to ({tmp_path}/log: {missing})"
    pid = f"a file that can be made ({tmp_path}/run: {missing})"
    assert problems(conf) == [
        f"ServerConf: working_directory: got '{tmp_path}/srv', allowed: {folder}",
        f"ServerConf: error_log: got '{tmp_path}/log/error', allowed: {log}",
        f"ServerConf: pid_file: got '{tmp_path}/run/pid', allowed: {pid}",
    ]
    assert problems(replace(conf, daemon=False)) == []
    assert problems(conf, reload=True) == []


def test_files_in_place_of_directories_and_the_other_way_round(tmp_path: Path) -> None:
    """Each is told as what it is."""
    file = tmp_path / "file"
    file.touch()
    conf = ServerConf(
        daemon=True, pid_file=str(tmp_path), error_log=str(tmp_path), working_directory=str(file)
    )

    found = problems(conf)

    assert [problem.rpartition("(")[2] for problem in found] == [
        "Not a directory)",
        "Is a directory)",
        "Is a directory)",
    ]


def test_good_files_are_not_touched(tmp_path: Path) -> None:
    """Nothing is made and nothing is changed."""
    log = tmp_path / "error.log"
    log.write_text("old")
    conf = ServerConf(
        daemon=True,
        pid_file=f"{tmp_path}/pid",
        error_log=str(log),
        working_directory=str(tmp_path),
        upgrade_sock=f"{tmp_path}/sock",
    )

    assert problems(conf, upgrade=True) == []
    assert problems(replace(conf, error_log="/dev/full")) == []
    assert problems(replace(conf, error_log=f"{tmp_path}/new.log")) == []
    assert [path.name for path in tmp_path.iterdir()] == ["error.log"]
    assert log.read_text() == "old"


@needs_rights
def test_what_this_user_may_not_write_to(tmp_path: Path) -> None:
    """Directories and files of others are refused, for the user that the server starts as."""
    log = tmp_path / "error.log"
    log.touch(0o400)
    tmp_path.chmod(0o500)
    conf = ServerConf(daemon=True, pid_file=f"{tmp_path}/pid", error_log=str(log))
    try:
        found = problems(conf)
    finally:
        tmp_path.chmod(0o700)

    assert found[0].endswith("a file that can be written to (Permission denied)")
    assert found[1].endswith(f"a file that can be made ({tmp_path}: Permission denied)")


# ----------------------------------------------------------------------------------- upgrade_sock


def test_an_upgrade_socket_too_long_for_the_system(tmp_path: Path) -> None:
    """Counted in full, because a relative path is used from another directory."""
    path = str(tmp_path / ("x" * 108))
    (found,) = problems(ServerConf(upgrade_sock=path))
    short = "y" * (108 - len(os.fsencode(Path.cwd())) - 1)
    (relative,) = problems(ServerConf(upgrade_sock=short))

    assert "allowed: a path of up to 107 bytes with all its directories, not " in found
    assert found.endswith(f" {len(path)}")
    assert relative.endswith("not 108")
    assert problems(ServerConf(upgrade_sock=short[1:])) == []


def test_an_upgrade_socket_is_looked_at_when_it_is_made(tmp_path: Path) -> None:
    """With -u: its directory has to be there, and what is in its place a socket."""
    missing = ServerConf(upgrade_sock=f"{tmp_path}/run/sock")
    taken = tmp_path / "file"
    taken.touch()
    file = ServerConf(upgrade_sock=str(taken))

    assert problems(missing) == problems(file) == []
    (found,) = problems(missing, upgrade=True)
    assert found == (
        f"ServerConf: upgrade_sock: got '{tmp_path}/run/sock', allowed: a socket that can be made"
        f" ({tmp_path}/run: No such file or directory)"
    )
    assert problems(file, upgrade=True)[0].endswith("(there is a file that is no socket)")


def test_an_upgrade_socket_that_is_there_is_left_alone(tmp_path: Path) -> None:
    """Whether it is alive is found out when it is needed."""
    path = tmp_path / "sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))

        assert problems(ServerConf(upgrade_sock=str(path)), upgrade=True) == []
        assert path.is_socket()


# ------------------------------------------------------------------------------------------ users


def test_an_unknown_user_or_group() -> None:
    """Each is refused by its key; at a reload nobody becomes anybody any more."""
    user = ServerConf(user="no-such-user", source="c.yaml")
    group = ServerConf(group="no-such-group", source="c.yaml")

    assert problems(user)[0].startswith("c.yaml: user: got 'no-such-user', allowed: ")
    assert problems(group)[0].startswith("c.yaml: group: got 'no-such-group', allowed: ")
    assert problems(user, reload=True) == []


@needs_rights
def test_becoming_another_user_takes_root() -> None:
    """Who is not root is told before anything has started."""
    (found,) = problems(ServerConf(user="root"))

    assert found.startswith("ServerConf: user: got 'root', allowed: ")


# ---------------------------------------------------------------------------------------- workers


def test_processors_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is named with its place in the list, and what there is instead."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 5, 7, 8})
    conf = ServerConf(worker_cpu_affinity=((0, 3), (5,), (9,)))

    allowed = "allowed: CPUs that this process may use, 0-2, 5, 7-8"
    assert problems(conf) == [
        f"ServerConf: worker_cpu_affinity[0][1]: got 3, {allowed}",
        f"ServerConf: worker_cpu_affinity[2][0]: got 9, {allowed}",
    ]
    assert problems(ServerConf(worker_cpu_affinity="auto")) == []


def test_a_heartbeat_that_healthy_workers_would_miss() -> None:
    """It has to be longer than the pause between two signs of life."""
    (found,) = problems(ServerConf(worker_heartbeat_timeout_seconds=1))

    assert "worker_heartbeat_timeout_seconds: got 1, allowed: more than 1, because workers" in found
    assert problems(ServerConf(worker_heartbeat_timeout_seconds=1.5)) == []


def test_memory_that_workers_need_for_nothing() -> None:
    """A limit below what the program has at its start would have them replaced for ever."""
    (found,) = problems(ServerConf(worker_max_memory=1_000_000))

    assert "worker_max_memory: got 1000000, allowed: more than the " in found
    assert problems(ServerConf(worker_max_memory=2**60)) == []
    assert problems(ServerConf(worker_max_memory=1_000_000), reload=True) == []


# ------------------------------------------------------------------------------ libraries, notes


def test_an_engine_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says how to get it."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)

    allowed = "h2, as long as 'pingora-core[jh2]' is not installed"
    assert problems(ServerConf(http2_engine="jh2")) == [
        f"ServerConf: http2_engine: got 'jh2', allowed: {allowed}"
    ]


def test_fips_without_a_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is told."""
    monkeypatch.setattr(
        "pingora_core.server.checks.checks.find_fips_problem", lambda: "it is not loaded"
    )

    assert problems(ServerConf(fips=True)) == [
        "ServerConf: fips: got true, allowed: false, because it is not loaded"
    ]


def test_what_has_no_effect_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values that are right and do nothing do not keep the server from starting."""
    monkeypatch.delenv("SSLKEYLOGFILE", raising=False)
    conf = ServerConf(
        upstream_debug_ssl_keylog=True,
        worker_max_requests_jitter=5,
        stream_drain_seconds=20,
        grace_period_seconds=10,
    )

    found = check_configuration(conf)

    assert found.problems == []
    assert found.notes == [
        "ServerConf: upstream_debug_ssl_keylog: without effect, SSLKEYLOGFILE is not set",
        "ServerConf: worker_max_requests_jitter: without effect, worker_max_requests is not set",
        "ServerConf: stream_drain_seconds: cut to the grace period of 10 seconds",
    ]


# --------------------------------------------------------------------------------------- services


class Unsound(Service):
    """Is not set up as it should be."""

    def __init__(self, name: str, error: Error | None, *addresses: ServerAddress) -> None:
        super().__init__(name)
        self._error = error
        self._addresses = addresses

    @property
    def listen_addresses(self) -> tuple[ServerAddress, ...]:
        return self._addresses

    def check(self) -> None:
        if self._error is not None:
            raise self._error

    async def start_service(self, context: ServiceContext) -> None:
        raise AssertionError


def test_all_services_are_asked() -> None:
    """What each of them has found is told together."""
    found = check_services([
        Unsound("one", Error(CONFIG_ERROR, "service 'one': got 1, allowed: 2")),
        Unsound("two", None),
        Unsound("three", Error(ErrorType.FILE_READ_ERROR, "cert.pem")),
    ])  # fmt: skip

    assert found.problems[0] == "service 'one': got 1, allowed: 2"
    assert "cert.pem" in found.problems[1]
    assert len(found.problems) == 2


def test_a_shared_address_is_noted() -> None:
    """Services share the socket of an address, which is seldom meant, least of all with port 0."""
    ephemeral, other = TcpServerAddress("127.0.0.1:0"), TcpServerAddress("127.0.0.2:0")

    found = check_services([
        Unsound("one", None, ephemeral),
        Unsound("two", None, other, ephemeral),
    ])  # fmt: skip

    assert found.problems == []
    (note,) = found.notes
    assert note.startswith("services 'one' and 'two' share the socket of 127.0.0.1:0: each")


def test_a_conclusion_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """All problems in one error; notes go to the log or to whoever is named."""
    caplog.set_level("INFO")
    found = Findings(["a: wrong", "b: wrong"], ["c: odd"])
    found.add(Findings(["d: wrong"]))
    told: list[str] = []

    with pytest.raises(Error) as caught:
        found.conclude()
    Findings(notes=["c: odd"]).conclude(told.append)

    assert caught.value.etype == CONFIG_ERROR
    assert caught.value.context == "a: wrong; b: wrong; d: wrong"
    assert [record.getMessage() for record in caplog.records] == ["c: odd"]
    assert told == ["note: c: odd"]


def test_a_machine_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be found out is no problem."""

    def missing(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert problems(ServerConf(worker_max_memory=1)) == []
