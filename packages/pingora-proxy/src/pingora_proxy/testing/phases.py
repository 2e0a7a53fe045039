"""Recording which callbacks run, and in which order."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Protocol

from pingora_proxy.hooks import ProxyHttp

if TYPE_CHECKING:
    from typing import TypeVar

    CTX = TypeVar("CTX")

__all__ = ["record_phases"]

_ONCE = frozenset({"cleanup", "init_downstream_modules", "init_upstream_modules", "startup"})


def record_phases(app: ProxyHttp[CTX]) -> list[str]:
    """Have an application note the name of every callback when it begins.

    Call it before the service is made. All callbacks are called then, also those that the
    application does not override, as they stand in the phase chart.

    Args:
        app: The application; its callbacks are wrapped, on this object only.

    Returns:
        The names, in the order of the calls; grows while requests are served.
    """
    phases: list[str] = []
    for name in dir(ProxyHttp):
        if name.startswith("_") or name in _ONCE or not callable(getattr(ProxyHttp, name)):
            continue
        setattr(app, name, _noting(phases, name, getattr(app, name)))
    return phases


class _Callback(Protocol):
    def __call__(self, *args: object, **named: object) -> object: ...


def _noting(phases: list[str], name: str, callback: _Callback) -> _Callback:
    is_async = inspect.iscoroutinefunction(callback)

    def noting(*args: object, **named: object) -> object:
        phases.append(name)
        return callback(*args, **named)

    async def noting_async(*args: object, **named: object) -> object:
        result = noting(*args, **named)
        assert isinstance(result, Awaitable)
        return await result

    return noting_async if is_async else noting
