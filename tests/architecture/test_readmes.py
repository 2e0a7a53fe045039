"""What the front page of a package shows can be copied: it runs, and prints what it says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from pingora_core import Server
from tests.architecture.workspace import MEMBERS, ROOT

if TYPE_CHECKING:
    from pathlib import Path

_LINK = re.compile(r"\]\((?!https?:)([^)\s]+)\)")
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _blocks(readme: Path) -> list[str]:
    return _BLOCK.findall(readme.read_text(encoding="utf-8"))


BLOCKS = [
    pytest.param(block, id=f"{member.name}-{number}")
    for member in MEMBERS
    for number, block in enumerate(_blocks(member / "README.md"), 1)
]


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name)
def test_a_front_page_begins_with_code(member: Path) -> None:
    """A front page has the name of its package, then what it is for, then a program."""
    text = (member / "README.md").read_text(encoding="utf-8")

    assert text.startswith(f"# {member.name}\n\n")
    assert "```python\n" in "\n".join(text.splitlines(keepends=True)[:12])


@pytest.mark.parametrize("block", BLOCKS)
def test_a_program_runs_and_prints_what_it_says(
    block: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every line that a program prints stands in one of its comments or strings."""
    monkeypatch.setattr("sys.argv", ["readme"])
    monkeypatch.setattr(Server, "run_forever", lambda _: None)

    exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})

    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if line not in block] == []


def test_the_first_program_of_all_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The front page of the repository can be copied as it stands."""
    monkeypatch.setattr("sys.argv", ["readme"])
    monkeypatch.setattr(Server, "run_forever", lambda _: None)
    (block,) = _blocks(ROOT / "README.md")

    exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", *(member / "README.md" for member in MEMBERS)],
    ids=lambda page: page.parent.name,
)
def test_what_a_front_page_links_to_is_there(page: Path) -> None:
    """Files exist, and pages have the headings that links name; no package leaves its folder."""
    broken = []
    for target in _LINK.findall(page.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        path = page.parent / name
        if not path.exists() or (anchor and anchor not in _anchors(path)):
            broken.append(target)
        elif page.parent != ROOT and not path.resolve().is_relative_to(page.parent):
            broken.append(f"{target} is not in the package")
    assert broken == []


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}
