"""The project that newcomers start from: small, typed, tested, and ready to be deployed.

The templates are the files of the project with ``$name``, ``$module`` and ``$class_name`` in them;
``_FILES`` says where each one goes.
"""

from __future__ import annotations

import keyword
import re
from importlib import resources
from string import Template
from typing import TYPE_CHECKING, Final

from pingora_proxy._version import __version__

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["create_project"]

_NAME: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

_FILES: Final = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "service.py": "src/{module}/service.py",
    "settings.py": "src/{module}/settings.py",
    "main.py": "src/{module}/__main__.py",
    "init.py": "src/{module}/__init__.py",
    "py.typed": "src/{module}/py.typed",
    "test_service.py": "tests/test_service.py",
    "settings.yaml": "{name}.yaml",
    "unit.service": "deploy/{name}.service",
    "Containerfile": "deploy/Containerfile",
    "container.yaml": "deploy/container.yaml",
    "dockerignore": ".dockerignore",
    "gitignore": ".gitignore",
}


def create_project(directory: Path, name: str) -> list[Path]:
    """Write a new project.

    Args:
        directory: Where; it is made, and must not exist or be empty.
        name: Its name: words of lower-case letters and digits, with ``-`` in between.

    Returns:
        The files that were written.

    Raises:
        ValueError: If the name is no such name, or Python has another use for it.
        FileExistsError: If there is something in the directory.
    """
    module = name.replace("-", "_")
    if not _NAME.fullmatch(name) or keyword.iskeyword(module) or module == "pingora_proxy":
        msg = f"a project cannot be called {name!r}: use lower-case words, such as edge-proxy"
        raise ValueError(msg)
    if directory.exists() and any(directory.iterdir()):
        msg = f"{directory} is not empty: nothing was written"
        raise FileExistsError(msg)
    major, minor, *_ = __version__.split(".")
    values = {
        "name": name,
        "module": module,
        "class_name": "".join(word.capitalize() for word in name.split("-")),
        "at_least": f"{major}.{minor}",
        "below": f"{major}.{int(minor) + 1}",
        "env": module.upper(),
    }
    templates = resources.files("pingora_proxy.scaffold") / "templates"
    written: list[Path] = []
    for template, place in _FILES.items():
        text = (templates / f"{template}.txt").read_text(encoding="utf-8")
        path = directory / place.format(**values)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Template(text).substitute(values), encoding="utf-8")
        written.append(path)
    return written
