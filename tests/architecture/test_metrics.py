"""The table of metrics in the documentation is what the code measures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pingora_core.apps import metrics as apps
from pingora_core.metrics import OverWorkers, loop_lag, process, registry, workers
from pingora_core.services import metrics as services, otlp
from pingora_load_balancing import metrics as balancing
from pingora_proxy import cache_metrics, metrics as proxy, observe
from pingora_proxy.asgi import metrics as asgi
from pingora_proxy.tracing import sentry

if TYPE_CHECKING:
    from pingora_core.metrics import Description

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "metrics.md"

GROUPS: dict[str, tuple[tuple[Description, ...], ...]] = {
    "Requests and upstreams": (proxy.DESCRIPTIONS, observe.DESCRIPTIONS, sentry.DESCRIPTIONS),
    "Connections, TLS, HTTP/2, limits, logs": (services.DESCRIPTIONS, apps.DESCRIPTIONS),
    "Caches": (cache_metrics.DESCRIPTIONS,),
    "Load balancing": (balancing.DESCRIPTIONS,),
    "ASGI applications": (asgi.DESCRIPTIONS,),
    "Processes and the metrics themselves": (
        process.DESCRIPTIONS,
        workers.DESCRIPTIONS,
        loop_lag.DESCRIPTIONS,
        registry.DESCRIPTIONS,
        otlp.DESCRIPTIONS,
    ),
}


def tables() -> str:
    """Write the tables as the page has them."""
    lines: list[str] = []
    for title, groups in GROUPS.items():
        lines += [f"### {title}", "", "| metric | kind | labels | what |", "|---|---|---|---|"]
        for description in (each for group in groups for each in group):
            labels = ", ".join(f"`{name}`" for name in description.label_names)
            kind = description.kind.value
            if description.over_workers in {OverWorkers.LEAST, OverWorkers.MOST}:
                kind = f"{kind}, {description.over_workers.value}"
            lines.append(f"| `{description.name}` | {kind} | {labels} | {description.help} |")
        lines.append("")
    return "\n".join(lines)


def test_the_page_has_what_is_measured() -> None:
    """Each metric, its labels and its help; nothing that is not measured."""
    page = PAGE.read_text(encoding="utf-8")
    between = page.partition("<!-- metrics -->\n\n")[2].partition("<!-- end of metrics -->")[0]
    assert between == tables() + "\n"


def test_no_two_metrics_are_called_alike() -> None:
    """Nor does one end as the parts of another do, which OpenMetrics forbids."""
    names = [each.name for groups in GROUPS.values() for group in groups for each in group]
    assert len(set(names)) == len(names)
    stems = {name.removesuffix("_total") for name in names}
    assert len(stems) == len(names)
    for suffix in ("_bucket", "_sum", "_count", "_created"):
        assert not stems & {name + suffix for name in stems}
