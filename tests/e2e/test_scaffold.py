"""A new project runs at once: its tests pass, its types hold, its configuration is valid."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pingora_proxy.__main__ import main
from pingora_proxy.scaffold import create_project
from tests.support.process import ROOT

if TYPE_CHECKING:
    from pathlib import Path


def _run(directory: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=directory,
        env={"PYTHONPATH": "src", "MYPYPATH": "src", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_new_project_passes_its_own_tests_and_checks(tmp_path: Path) -> None:
    """What is written is typed, tested and can be started."""
    directory = tmp_path / "edge"
    files = create_project(directory, "edge-proxy")
    assert directory / "src/edge_proxy/service.py" in files
    assert "2 passed" in _run(directory, "pytest", "-q", "-p", "no:cacheprovider")
    _run(directory, "mypy", "--cache-dir", str(ROOT / ".mypy_cache" / "scaffold"))
    assert "valid" in _run(directory, "edge_proxy", "-t", "-c", "edge-proxy.yaml")
    told = _run(directory, "edge_proxy", "-t", "-c", "deploy/container.yaml")
    assert "edge_proxy: configuration is valid: deploy/container.yaml" in told
    unit = (directory / "deploy/edge-proxy.service").read_text()
    assert "ExecReload=/bin/kill -HUP $MAINPID" in unit


def test_the_files_of_a_project_name_each_other_rightly(tmp_path: Path) -> None:
    """What the container file copies and what the page lists is there; no placeholder is left."""
    directory = tmp_path / "edge"
    texts = {path: path.read_text() for path in create_project(directory, "edge-proxy")}
    assert [
        str(path) for path, text in texts.items() if re.search(r"\$(name|module|class)", text)
    ] == []
    for path in re.findall(
        r"^COPY (\S+) /etc", texts[directory / "deploy/Containerfile"], re.MULTILINE
    ):
        assert (directory / path).is_file()
    for path in re.findall(r"^\| `([^`]+)`", texts[directory / "README.md"], re.MULTILINE):
        assert (directory / path).exists()


@pytest.mark.parametrize("key", ["api_key", "upstream"])
def test_a_misspelt_key_is_refused(key: str, tmp_path: Path) -> None:
    """Without its keys, the proxy would let everybody in."""
    directory = tmp_path / "edge"
    create_project(directory, "edge")
    conf = directory / "edge.yaml"
    conf.write_text(conf.read_text().replace(f"{key}s:", f"{key}:"))
    done = subprocess.run(
        [sys.executable, "-m", "edge", "-t", "-c", "edge.yaml"],
        cwd=directory,
        env={"PYTHONPATH": "src"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 2
    assert f"edge.yaml: proxy.{key}" in done.stderr or "is missing" in done.stderr


def test_what_is_there_is_never_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A directory that holds something is refused, with a line that says so."""
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["new", "edge", "--directory", str(tmp_path)]) == 1
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    "name", ["Edge", "class", "a_b", "1st", "a--b", "", "pingora-proxy", "../x"]
)
def test_a_name_that_cannot_be_a_module_is_refused(name: str, tmp_path: Path) -> None:
    """The name becomes a module, a unit and a path."""
    with pytest.raises(ValueError, match="cannot be called"):
        create_project(tmp_path / "new", name)
    assert not (tmp_path / "new").exists()


def test_the_command_says_what_comes_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The files are listed, and the commands that try them."""
    assert main(["new", "edge", "--directory", str(tmp_path / "edge")]) == 0
    told = capsys.readouterr().out
    assert "src/edge/service.py" in told
    assert "python -m edge -c edge.yaml" in told
