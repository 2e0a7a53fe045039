"""The environment: which keys it overrides, and what is said of variables that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from pingora_core.conf import CONFIG_ERROR, Opt, ServerConf
from pingora_error import Error


def conf_of(**variables: str) -> ServerConf:
    """Make a configuration of variables alone."""
    return ServerConf.from_opt(Opt(), variables)


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("PINGORA_WORKERS", "auto", "auto"),
        ("PINGORA_WORKERS", "3", 3),
        ("PINGORA_GRACE_PERIOD_SECONDS", "30", 30.0),
        ("PINGORA_GRACE_PERIOD_SECONDS", "null", None),
        ("PINGORA_DAEMON", "true", True),
        ("PINGORA_DAEMON", "no", False),
        ("PINGORA_USER", "1000", "1000"),
        ("PINGORA_USER", "null", None),
        ("PINGORA_PID_FILE", "/run/a: b.pid", "/run/a: b.pid"),
        ("PINGORA_LOG_LEVEL", "debug", "debug"),
        ("PINGORA_UMASK", "0027", 0o027),
        ("PINGORA_UMASK", "null", None),
        ("PINGORA_CLIENT_BIND_TO_IPV4", "[127.0.0.1, 127.0.0.2]", ("127.0.0.1", "127.0.0.2")),
        ("PINGORA_CLIENT_BIND_TO_IPV6", "['::1']", ("::1",)),
        ("PINGORA_WORKER_CPU_AFFINITY", "[[0], [1, 2]]", ((0,), (1, 2))),
    ],
)
def test_a_variable_sets_its_key(variable: str, text: str, value: object) -> None:
    """Written as in the file; text needs no quotes whatever is in it."""
    key = variable.removeprefix("PINGORA_").lower()

    assert getattr(conf_of(**{variable: text}), key) == value


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        (
            "PINGORA_WORKERS",
            "many",
            ": got 'many', allowed: a whole number from 1 to 1024, or auto",
        ),
        ("PINGORA_THREADS", "0", ": got 0, allowed: a whole number from 1 to 1024, or auto"),
        ("PINGORA_DAEMON", "1", ": got 1, allowed: true or false"),
        ("PINGORA_PID_FILE", "\0", r": got '\x00', allowed: text, not empty"),
        ("PINGORA_UMASK", "27", ": got '27', allowed: a mode in octal with a leading zero"),
        ("PINGORA_MAX_RETRIES", "null", ": got null, allowed: a whole number of at least 1"),
        ("PINGORA_MAX_RETRIES", "[1", ": is not valid YAML: line 1, column 3"),
        ("PINGORA_CLIENT_BIND_TO_IPV4", "[1.2.3.4, x]", ": [1]: got 'x', allowed: an IPv4 address"),
        ("PINGORA_CLIENT_BIND_TO_IPV4", "[5]", ": [0]: got 5, allowed: a list of IPv4 addresses"),
    ],
)
def test_a_wrong_variable_is_refused_by_its_name(variable: str, text: str, said: str) -> None:
    """The message names the variable, the value and what is allowed, in one line."""
    with pytest.raises(Error) as caught:
        conf_of(**{variable: text})

    assert caught.value.etype == CONFIG_ERROR
    assert caught.value.context is not None
    assert caught.value.context.startswith(f"environment variable {variable}{said}")
    assert "\n" not in caught.value.context


def test_the_order_is_file_environment_command_line(tmp_path: Path) -> None:
    """Each has the last word over those before it."""
    path = tmp_path / "conf.yaml"
    path.write_text("max_retries: 3\nworkers: 2\nmine: {a: 1}")
    environ = {"PINGORA_WORKERS": "4", "PINGORA_DAEMON": "false"}

    conf = ServerConf.from_opt(Opt(conf=str(path), daemon=True), environ)

    assert (conf.max_retries, conf.workers, conf.daemon) == (3, 4, True)
    assert conf.section("mine", dict[str, int]) == {"a": 1}
    assert conf.source == str(path)


def test_each_value_remembers_where_it_is_from() -> None:
    """So that what is found wrong later is told of the right place."""
    conf = ServerConf.from_opt(
        Opt(daemon=True), {"PINGORA_CA_FILE": "/x", "PINGORA_CLIENT_BIND_TO_IPV4": "[1.2.3.4]"}
    )

    assert conf.problem("ca_file", "a file") == (
        "environment variable PINGORA_CA_FILE: got '/x', allowed: a file"
    )
    assert conf.problem("client_bind_to_ipv4", "another", 0) == (
        "environment variable PINGORA_CLIENT_BIND_TO_IPV4: [0]: got '1.2.3.4', allowed: another"
    )
    assert conf.place("daemon") == "option -d"
    assert conf.place("user") == "ServerConf: user"


def test_the_environment_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless another one is given."""
    monkeypatch.setenv("PINGORA_MAX_RETRIES", "5")

    assert ServerConf.from_opt(Opt()).max_retries == 5
    assert ServerConf.from_opt(Opt(), {}).max_retries == 16


def test_pingoras_name_for_workers() -> None:
    """``PINGORA_THREADS`` sets ``workers``; two variables that disagree are refused."""
    assert conf_of(PINGORA_THREADS="3").workers == 3
    assert conf_of(PINGORA_THREADS="3").place("workers").endswith("PINGORA_THREADS")
    assert conf_of(PINGORA_THREADS="3", PINGORA_WORKERS="3").workers == 3
    with pytest.raises(Error) as caught:
        conf_of(PINGORA_THREADS="3", PINGORA_WORKERS="4")

    assert caught.value.context == (
        "environment variable PINGORA_THREADS: and that for 'workers' are the same setting with"
        " two values, allowed: one of them"
    )


def test_what_is_none_of_the_servers(caplog: pytest.LogCaptureFixture) -> None:
    """Other variables are left alone, also those that a cluster makes; near misses are told."""
    conf = conf_of(
        PINGORA_PORT="tcp://10.0.0.1:80",
        PINGORA_SERVICE_HOST="10.0.0.1",
        PINGORA_VERSION="1.2.3",
        PINGORA_WORKERS="",
        PINGORA_CONF="not-read-here.yaml",
        PINGORA_WORKER="4",
        PINGORA_max_retries="4",
        WORKERS="5",
    )

    assert conf == ServerConf()
    said = "environment variable {} is none of the server's; is {} meant?"
    assert sorted(record.getMessage() for record in caplog.records) == [
        said.format("PINGORA_WORKER", "PINGORA_WORKERS"),
        said.format("PINGORA_max_retries", "PINGORA_MAX_RETRIES"),
    ]


def test_a_variable_without_a_meaning_gets_a_note(caplog: pytest.LogCaptureFixture) -> None:
    """As a key of the file does."""
    conf_of(PINGORA_WORK_STEALING="false", PINGORA_LISTENER_TASKS_PER_FD="1")

    (record,) = caplog.records
    assert record.getMessage() == (
        "environment variable PINGORA_WORK_STEALING: has no meaning here; the key is accepted for"
        " the sake of Pingora's files"
    )


def test_the_file_can_be_named_by_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """``PINGORA_CONF`` stands in for ``-c``, which wins; what the program brings comes last."""
    monkeypatch.setenv("PINGORA_CONF", "a.yaml")
    assert Opt.parse_args([]).conf == "a.yaml"
    assert Opt.parse_args(["-c", "b.yaml"]).conf == "b.yaml"

    monkeypatch.setenv("PINGORA_CONF", "")
    assert Opt.parse_args([]).conf is None
    assert Opt.parse_args([], conf=Path("own.yaml")).conf == "own.yaml"

    monkeypatch.setenv("PINGORA_CONF", "a.yaml")
    assert Opt.parse_args([], conf="own.yaml").conf == "a.yaml"
    assert Opt.parse_args(["-c", "b.yaml"], conf="own.yaml").conf == "b.yaml"
