"""What an ASGI application does, in numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pingora_core.metrics import Description, Kind, Reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pingora_proxy.asgi.application import AsgiApplication

__all__ = ["DESCRIPTIONS", "asgi_source"]

RUNNING: Final = Description(
    otel_name="pingora.asgi.running",
    kind=Kind.GAUGE,
    unit="{call}",
    help="Calls of an ASGI application that run now, work after the response included.",
    labels=("application",),
)
FAILURES: Final = Description(
    otel_name="pingora.asgi.failures",
    kind=Kind.COUNTER,
    unit="{call}",
    help="Calls in which an ASGI application has failed, by what it did: raised, protocol, unanswered, timeout.",
    labels=("application", "kind"),
)

DESCRIPTIONS: Final = (RUNNING, FAILURES)


def asgi_source(application: AsgiApplication, name: str) -> Callable[[], Iterator[Reading]]:
    """Make a source of what an application counts.

    Args:
        application: The application.
        name: Value of the label ``application``.

    Returns:
        The source, for ``Registry.add_source``.
    """

    def read() -> Iterator[Reading]:
        yield Reading(RUNNING, application.running, (name,))
        for kind, count in application.failure_counts.items():
            yield Reading(FAILURES, count, (name, kind))

    return read
