"""Draws the tables of ``docs/performance.md`` as static SVG: ``python tools/docs_plots.py``.

Theory of operation: the page is the only place where the numbers are. A table of it is read, one
group of bars for each row, one bar for each column. Nothing is loaded from anywhere.
"""

from __future__ import annotations

import re
import sys
from html import escape
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

__all__ = ["PLOTS", "Number", "Plot", "Rows", "main", "read_table", "render"]

DOCS: Final = Path(__file__).resolve().parents[1] / "docs"
PAGE: Final = DOCS / "performance.md"

_WIDTH: Final = 760
_LEFT: Final = 190
_RIGHT: Final = 110
_BAR: Final = 14
_GAP: Final = 18
_TOP: Final = 62

# A panel with a background of its own reads the same on light and on dark pages; a media query would
# follow the reader's system, which need not be what the page follows.
_STYLE: Final = """
text{font:12px system-ui,sans-serif;fill:#24292f}
.t{font-size:15px;font-weight:600}.m{fill:#57606a}
.p{fill:#fafaf8;stroke:#c8ccd1}.a{stroke:#57606a;stroke-dasharray:3 3}
.c0{fill:#0f766e}.c1{fill:#5fa8a1}.c2{fill:#6d6ad1}.c3{fill:#b45309}.c4{fill:#7d828a}.c5{fill:#a16a8f}
"""


class Number(NamedTuple):
    """What a cell says.

    Attributes:
        value: The number.
        ratio: The one in brackets: its ratio to nginx, 1 for nginx itself.
    """

    value: float
    ratio: float


Rows: TypeAlias = dict[str, dict[str, Number]]


class Plot(NamedTuple):
    """One picture.

    Attributes:
        file: Its name, below ``docs/images``.
        title: What it shows.
        unit: What the numbers are.
        scenarios: The rows of the page's tables, by their first cell.
        columns: Their columns.
        shows_ratios: Whether the ratios are drawn; else the numbers themselves.
    """

    file: str
    title: str
    unit: str
    scenarios: tuple[str, ...]
    columns: tuple[str, ...]
    shows_ratios: bool = True


_COLOURS: Final = {
    name: f"c{number}"
    for number, name in enumerate(
        ("ours", "ours with jh2", "nginx", "HAProxy", "aiohttp", "hypercorn")
    )
}
_HTTP1: Final = ("ours", "nginx", "HAProxy", "aiohttp")
_HTTP2: Final = ("ours", "ours with jh2", "nginx", "hypercorn")

PLOTS: Final = (
    Plot(
        "performance-http1.svg",
        "HTTP/1: CPU per request",
        "times nginx in the same run; less is better",
        ("small_get", "response_1mib", "upload_1mib", "connection_per_request"),
        _HTTP1,
    ),
    Plot(
        "performance-tls-h2.svg",
        "TLS, HTTP/2, gRPC: CPU per request",
        "times nginx in the same run; less is better",
        (
            "tls_small_get",
            "tls_handshakes",
            "tls_resumptions",
            "h2_small_get",
            "h2_response_1mib",
            "grpc_unary",
        ),
        _HTTP2,
    ),
    Plot(
        "performance-memory.svg",
        "Memory of one idle connection, 10,000 of them",
        "KiB; less is better",
        ("idle, 10,000 connections", "idle_h2, 10,000 connections"),
        tuple(_COLOURS),
        shows_ratios=False,
    ),
)


def read_table(text: str) -> Rows:
    """Read the tables whose first column is called "scenario".

    Args:
        text: The page.

    Returns:
        For each scenario, without its marks and its unit, the numbers by column.
    """
    rows: Rows = {}
    columns: list[str] = []
    for line in text.splitlines():
        if not line.startswith("|"):
            columns = []
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] == "scenario":
            columns = cells[1:]
        elif columns and not cells[0].startswith("-"):
            name = cells[0].replace("`", "").removesuffix(", KiB each")
            values = dict(zip(columns, map(_number, cells[1:]), strict=True))
            rows[name] = {column: value for column, value in values.items() if value is not None}
    return rows


def _number(cell: str) -> Number | None:
    found = re.match(r"([0-9.]+)(?: \(([0-9.]+)\))?", cell)
    if found is None:
        return None
    return Number(float(found[1]), 1.0 if found[2] is None else float(found[2]))


def render(plot: Plot, rows: Rows) -> str:
    """Draw a picture.

    Args:
        plot: Which.
        rows: The numbers, from `read_table`.

    Returns:
        The SVG.

    Raises:
        KeyError: If the page does not have a row.
    """
    groups = [(name, _values(plot, rows[name])) for name in plot.scenarios]
    widest = max(value for _, values in groups for _, value in values)
    scale = (_WIDTH - _LEFT - _RIGHT) / widest
    parts: list[str] = []
    y = _TOP
    for name, values in groups:
        middle = y + len(values) * _BAR / 2 + 4
        parts.append(f'<text x="{_LEFT - 10}" y="{middle:g}" text-anchor="end">{name}</text>')
        for column, value in values:
            width = max(1.0, value * scale)
            label = f"{value:.2f}" if plot.shows_ratios else f"{value:g}"
            parts.append(
                f'<rect class="{_COLOURS[column]}" x="{_LEFT}" y="{y}" width="{width:.1f}" '
                f'height="{_BAR - 2}"/><text class="m" x="{_LEFT + width + 6:.1f}" '
                f'y="{y + _BAR - 4}">{label}</text>'
            )
            y += _BAR
        y += _GAP
    if plot.shows_ratios:
        x = _LEFT + scale
        parts.append(f'<path class="a" d="M{x:.1f} {_TOP - 6}V{y - _GAP + 4}"/>')
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}" role="img" '
        f'aria-label="{escape(_in_words(plot, groups))}">\n<style>{_STYLE}</style>\n'
        f'<rect class="p" x="0.5" y="0.5" width="{_WIDTH - 1}" height="{y - 1}" rx="6"/>\n'
        f'<text class="t" x="10" y="20">{escape(plot.title)}</text>'
        f'<text class="m" x="{_WIDTH - 10}" y="20" text-anchor="end">{escape(plot.unit)}</text>\n'
    )
    return head + _legend(plot, groups) + "\n".join(parts) + "\n</svg>\n"


def _values(plot: Plot, row: dict[str, Number]) -> list[tuple[str, float]]:
    return [
        (column, row[column].ratio if plot.shows_ratios else row[column].value)
        for column in plot.columns
        if column in row
    ]


def _legend(plot: Plot, groups: list[tuple[str, list[tuple[str, float]]]]) -> str:
    shown = {column for _, values in groups for column, _ in values}
    parts: list[str] = []
    x = _LEFT
    for column in plot.columns:
        if column in shown:
            parts.append(
                f'<rect class="{_COLOURS[column]}" x="{x}" y="36" width="10" height="10"/>'
                f'<text x="{x + 15}" y="45">{escape(column)}</text>'
            )
            x += 40 + 7 * len(column)
    return "".join(parts) + "\n"


def _in_words(plot: Plot, groups: list[tuple[str, list[tuple[str, float]]]]) -> str:
    said = (
        f"{name}: " + ", ".join(f"{column} {value:.3g}" for column, value in values)
        for name, values in groups
    )
    return f"{plot.title}, {plot.unit}. " + "; ".join(said) + "."


def main() -> int:
    """Write the pictures.

    Returns:
        The exit code.
    """
    rows = read_table(PAGE.read_text(encoding="utf-8"))
    for plot in PLOTS:
        path = DOCS / "images" / plot.file
        path.parent.mkdir(exist_ok=True)
        path.write_text(render(plot, rows), encoding="utf-8")
        print(path.relative_to(DOCS.parent))
    return 0


if __name__ == "__main__":
    sys.exit(main())
