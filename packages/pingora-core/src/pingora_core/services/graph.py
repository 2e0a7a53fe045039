"""Which service waits for which: the dependencies, and the order of start that follows."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from pingora_core.conf import CONFIG_ERROR
from pingora_core.services.service import Placement
from pingora_error import Error, ErrorSource

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pingora_core.services.service import Service

__all__ = ["ServiceGraph", "ServiceHandle"]


@final
class ServiceHandle:
    """A service in a server's graph; how its dependencies are declared.

    Made by ``Server.add_service``.

    Args:
        graph: The graph it is part of.
        service: The service.

    Attributes:
        service: As given.

    Source: pingora-core/src/services/mod.rs.
    """

    __slots__ = ("_dependencies", "_graph", "service")

    def __init__(self, graph: ServiceGraph, service: Service) -> None:
        self.service: Service = service
        self._graph = graph
        # Keys only: a set that keeps the order of declaration.
        self._dependencies: dict[ServiceHandle, None] = {}

    @property
    def name(self) -> str:
        """The name of the service."""
        return self.service.name

    @property
    def dependencies(self) -> tuple[ServiceHandle, ...]:
        """What must be ready before this service starts, in the order of declaration."""
        return tuple(self._dependencies)

    def add_dependency(self, dependency: ServiceHandle) -> None:
        """Start this service only when another one is ready.

        Args:
            dependency: The other service; declaring it twice does nothing more.

        Raises:
            ValueError: If that closes a circle, which the message names, or if one of the two
                was not added to this server, or was removed from it.
        """
        if self not in self._graph:
            msg = f"service {self.name!r} was removed and cannot depend on anything any more"
            raise ValueError(msg)
        if dependency not in self._graph:
            msg = (
                f"service {self.name!r} cannot depend on {dependency.name!r}, "
                "which was not added to the same server"
            )
            raise ValueError(msg)
        path = _path(dependency, self)
        if path is not None:
            circle = " -> ".join(repr(handle.name) for handle in (self, *path))
            msg = f"services cannot depend on each other in a circle: {circle}"
            raise ValueError(msg)
        self._dependencies[dependency] = None

    def add_dependencies(self, dependencies: Iterable[ServiceHandle]) -> None:
        """Start this service only when several others are ready.

        Args:
            dependencies: The others. If one is refused, those before it stay declared.

        Raises:
            ValueError: As `add_dependency` does.
        """
        for dependency in dependencies:
            self.add_dependency(dependency)

    def __repr__(self) -> str:
        return f"ServiceHandle({self.name!r})"


@final
class ServiceGraph:
    """The services of a server and what each one waits for; free of circles at all times."""

    __slots__ = ("_handles",)

    def __init__(self) -> None:
        self._handles: dict[ServiceHandle, None] = {}

    def add(self, service: Service) -> ServiceHandle:
        """Add a service.

        Args:
            service: Not in the graph yet.

        Returns:
            Its handle.

        Raises:
            ValueError: If the same service object was added before.
        """
        if any(handle.service is service for handle in self._handles):
            msg = f"service {service.name!r} was added twice"
            raise ValueError(msg)
        handle = ServiceHandle(self, service)
        self._handles[handle] = None
        return handle

    def remove(self, handle: ServiceHandle) -> None:
        """Remove a service that no other one depends on; it may be added again.

        Args:
            handle: What `add` returned; of no use afterwards.

        Raises:
            ValueError: If it is not in the graph, or others depend on it, which are named.
        """
        if handle not in self._handles:
            msg = f"service {handle.name!r} is not in this server"
            raise ValueError(msg)
        users = [repr(other.name) for other in self._handles if handle in other.dependencies]
        if users:
            msg = f"service {handle.name!r} cannot be removed: it is needed by {', '.join(users)}"
            raise ValueError(msg)
        del self._handles[handle]

    def dependents(self, handle: ServiceHandle) -> list[ServiceHandle]:
        """Find what depends on a service, directly or through others.

        Args:
            handle: The service.

        Returns:
            Its dependents, in an order in which they can be removed.
        """
        found: dict[ServiceHandle, None] = {handle: None}
        for each in self.start_order():
            if not found.keys().isdisjoint(each.dependencies):
                found[each] = None
        del found[handle]
        return list(reversed(found))

    def check_placement(self) -> None:
        """Refuse a service that would wait for one which other processes do not run.

        Raises:
            Error: ``CONFIG_ERROR`` naming each every-worker service that depends on a
                one-worker service, and the latter.
        """
        problems = [
            f"service {handle.name!r} runs in every worker and depends on {dependency.name!r}, "
            "which runs in one"
            for handle in self._handles
            if handle.service.placement is Placement.EVERY_WORKER
            for dependency in handle.dependencies
            if dependency.service.placement is Placement.ONE_WORKER
        ]
        if problems:
            allowed = "allowed: dependencies that run in every worker, or both in one"
            problem = f"{'; '.join(problems)}; {allowed}"
            raise Error(CONFIG_ERROR, problem, source=ErrorSource.INTERNAL)

    def start_order(self) -> list[ServiceHandle]:
        """Put every service behind what it depends on.

        Returns:
            All services, in the order they were added as far as the dependencies allow.
        """
        ordered: dict[ServiceHandle, None] = {}
        for handle in self._handles:
            _append_after_dependencies(handle, ordered)
        return list(ordered)

    def __contains__(self, handle: ServiceHandle) -> bool:
        return handle in self._handles

    def __iter__(self) -> Iterator[ServiceHandle]:
        return iter(self._handles)

    def __len__(self) -> int:
        return len(self._handles)


def _append_after_dependencies(start: ServiceHandle, ordered: dict[ServiceHandle, None]) -> None:
    # Depth first with a stack of our own: a chain may be longer than the recursion limit.
    stack = [start]
    while stack:
        handle = stack[-1]
        missing = [each for each in handle.dependencies if each not in ordered]
        if missing:
            stack.extend(reversed(missing))
        else:
            ordered[stack.pop()] = None


def _path(source: ServiceHandle, target: ServiceHandle) -> list[ServiceHandle] | None:
    # A way along the dependencies; each handle is visited once.
    came_from: dict[ServiceHandle, ServiceHandle | None] = {source: None}
    pending = [source]
    while pending:
        handle = pending.pop()
        if handle is target:
            path: list[ServiceHandle] = []
            step: ServiceHandle | None = handle
            while step is not None:
                path.append(step)
                step = came_from[step]
            return path[::-1]
        for dependency in handle.dependencies:
            if dependency not in came_from:
                came_from[dependency] = handle
                pending.append(dependency)
    return None
