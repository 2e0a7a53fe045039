"""Opt: the command line of a server program."""

from __future__ import annotations

import pytest

from pingora_core.conf import Opt


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], Opt()),
        (["-u"], Opt(upgrade=True)),
        (["--upgrade"], Opt(upgrade=True)),
        (["-d"], Opt(daemon=True)),
        (["--daemon"], Opt(daemon=True)),
        (["-t"], Opt(test=True)),
        (["--test"], Opt(test=True)),
        (["-c", "a.yaml"], Opt(conf="a.yaml")),
        (["--conf=a.yaml"], Opt(conf="a.yaml")),
        (["--nocapture"], Opt(nocapture=True)),
        (["-udtca.yaml"], Opt(upgrade=True, daemon=True, test=True, conf="a.yaml")),
    ],
)
def test_flags(args: list[str], expected: Opt) -> None:
    """Each of Pingora's flags sets its attribute."""
    assert Opt.parse_args(args) == expected


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--daemonise"], "unrecognized arguments: --daemonise"),
        (["--dae"], "unrecognized arguments: --dae"),
        (["line\nbreak"], "unrecognized arguments: line break"),
        (["-c"], "-c/--conf: expected one argument"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_code_2(
    args: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line names what was wrong and what is allowed."""
    with pytest.raises(SystemExit) as caught:
        Opt.parse_args(args)

    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert "-u" in error or "-c" in error


def test_arguments_come_from_the_process_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a list the program's own arguments are read."""
    monkeypatch.setattr("sys.argv", ["server", "-t"])

    assert Opt.parse_args() == Opt(test=True)


@pytest.mark.parametrize(
    ("path", "name"),
    [("/srv/edge.py", "edge.py"), ("/srv/edge/__main__.py", "edge"), ("", "pingora")],
)
def test_messages_begin_with_the_name_of_the_program(
    path: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a package that was run with -m, it is that of the package."""
    monkeypatch.setattr("sys.argv", [path])
    assert Opt.parser().prog == name


def test_a_program_can_add_its_own_arguments() -> None:
    """parser() and from_namespace() let the options live beside a program's own."""
    parser = Opt.parser("Balance the load.")
    parser.add_argument("upstreams", nargs="*")

    namespace = parser.parse_args(["-c", "a.yaml", "one:80", "two:80"])

    assert Opt.from_namespace(namespace) == Opt(conf="a.yaml")
    assert namespace.upstreams == ["one:80", "two:80"]
