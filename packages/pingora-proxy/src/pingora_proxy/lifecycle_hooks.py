"""The callbacks of a proxy that belong to no request."""

from __future__ import annotations

__all__ = ["LifecycleHooks"]


class LifecycleHooks:
    """What :class:`pingora_proxy.ProxyHttp` has for the beginning and the end of its service.

    With worker processes both are called in each of them.
    """

    async def startup(self) -> None:
        """Get what the callbacks need: open stores, load tables, make clients.

        Called once, on the loop that will serve, before the service listens. An error raised here
        is the service's: it does not start.
        """

    async def cleanup(self) -> None:
        """Release what :meth:`startup` got.

        Called once, after the last request; also when ``startup`` has failed half way.
        """
