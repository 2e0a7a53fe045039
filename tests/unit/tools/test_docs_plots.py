"""The pictures of the page about performance are drawn from its tables."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

import docs_plots


@pytest.mark.parametrize("plot", docs_plots.PLOTS, ids=lambda plot: plot.file)
def test_pictures_show_what_the_tables_say(plot: docs_plots.Plot) -> None:
    """Whoever changes a number draws the pictures anew: ``python tools/docs_plots.py``."""
    rows = docs_plots.read_table(docs_plots.PAGE.read_text(encoding="utf-8"))
    picture = docs_plots.DOCS / "images" / plot.file
    assert picture.read_text(encoding="utf-8") == docs_plots.render(plot, rows)


def test_pictures_load_nothing() -> None:
    """They are well-formed, and refer to nothing outside of them."""
    for plot in docs_plots.PLOTS:
        root = ET.parse(docs_plots.DOCS / "images" / plot.file).getroot()
        tags = {element.tag.rpartition("}")[2] for element in root.iter()}
        assert tags <= {"svg", "style", "text", "rect", "path"}


def test_tables_are_read_by_row_and_column() -> None:
    """Marks and units are not part of a name; ratios are told from the numbers before them."""
    page = "| scenario | ours | nginx |\n|---|---|---|\n| `idle`, 5, KiB each | 93 (4.35) | - |\n"
    assert docs_plots.read_table(page) == {"idle, 5": {"ours": docs_plots.Number(93.0, 4.35)}}
