"""Whatever services come and go, fail and depend on each other, the runner keeps count."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import hypothesis.strategies as st
from hypothesis import given, settings

from pingora_core.services import Service, ServiceState
from pingora_error import Error
from tests.unit.pingora_core.server.running import Running

if TYPE_CHECKING:
    from pingora_core.services import ServiceContext, ServiceHandle

_NUMBERS = st.integers(0, 5)


@dataclass(frozen=True)
class Add:
    """Start a service on top of others, of which those that do not run are left out."""

    number: int
    dependencies: frozenset[int]
    fails: bool
    is_slow: bool


@dataclass(frozen=True)
class Remove:
    """End a service."""

    number: int


_STEPS = st.lists(
    st.builds(Add, _NUMBERS, st.frozensets(_NUMBERS, max_size=3), st.booleans(), st.booleans())
    | st.builds(Remove, _NUMBERS),
    max_size=25,
)


class Scripted(Service):
    """Fails at its start or not, at once or after some turns of the loop; counts itself."""

    notifies_ready = True
    step: Add

    def __init__(self, number: int, alive: list[int]) -> None:
        super().__init__(str(number))
        self.number = number
        self._alive = alive

    async def start_service(self, context: ServiceContext) -> None:
        for _ in range(3 if self.step.is_slow else 0):
            await asyncio.sleep(0)
        if self.step.fails:
            raise KeyError(self.number)
        self._alive.append(self.number)
        try:
            context.ready.notify_ready()
            await context.shutdown.wait()
        finally:
            self._alive.remove(self.number)


async def _play(steps: list[Add | Remove]) -> None:
    alive: list[int] = []
    services = [Scripted(number, alive) for number in range(6)]
    handles: dict[int, ServiceHandle] = {}
    needs: dict[int, set[int]] = {}
    async with Running() as running:
        for step in steps:
            if isinstance(step, Add) and step.number not in needs:
                services[step.number].step = step
                dependencies = {each for each in step.dependencies if each in needs}
                handle = running.graph.add(services[step.number])
                handle.add_dependencies(handles[each] for each in dependencies)
                try:
                    await running.runner.add(handle)
                except Error:
                    assert step.fails
                else:
                    assert not step.fails
                    handles[step.number], needs[step.number] = handle, dependencies
            elif isinstance(step, Remove) and step.number in needs:
                is_needed = any(step.number in each for each in needs.values())
                try:
                    await running.runner.remove(handles[step.number])
                except ValueError:
                    assert is_needed
                else:
                    assert not is_needed
                    del needs[step.number]
            ready = dict.fromkeys(map(str, needs), ServiceState.READY)
            assert running.runner.states == ready
            assert sorted(alive) == sorted(needs)
            assert {int(handle.name) for handle in running.graph} == set(needs)
            assert running.runner.failure is None
    assert alive == []
    assert running.runner.has_ended


@settings(max_examples=60, deadline=None)
@given(_STEPS)
def test_the_runner_agrees_with_a_set(steps: list[Add | Remove]) -> None:
    """After each step exactly those services run, and are known, that were added and not removed."""
    asyncio.run(_play(steps))
