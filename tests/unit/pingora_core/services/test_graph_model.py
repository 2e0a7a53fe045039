"""Whatever is added, removed and declared, the graph is free of circles and of loose ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pingora_core.services import Service, ServiceGraph

if TYPE_CHECKING:
    from random import Random

    from pingora_core.services import ServiceContext, ServiceHandle

_SERVICES = st.integers(0, 7)


class Numbered(Service):
    """A service that is never started."""

    async def start_service(self, context: ServiceContext) -> None:
        raise AssertionError


@st.composite
def acyclic(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    """Make the number of services and edges that only lead from a later to an earlier one."""
    size = draw(st.integers(1, 12))
    pairs = [(service, other) for service in range(size) for other in range(service)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    return size, edges


@given(acyclic(), st.randoms(use_true_random=False))
def test_every_acyclic_graph_is_accepted_and_ordered(
    shape: tuple[int, list[tuple[int, int]]], shuffler: Random
) -> None:
    """Added and declared in any order, each service follows its dependencies, once."""
    size, edges = shape
    numbers = list(range(size))
    shuffler.shuffle(numbers)
    shuffler.shuffle(edges)
    graph = ServiceGraph()
    handles = {number: graph.add(Numbered(str(number))) for number in numbers}
    for service, dependency in edges:
        handles[service].add_dependency(handles[dependency])

    ordered = graph.start_order()

    assert sorted(handle.name for handle in ordered) == sorted(map(str, numbers))
    position = {handle: index for index, handle in enumerate(ordered)}
    for service, dependency in edges:
        assert position[handles[dependency]] < position[handles[service]]
    if not edges:
        assert [handle.name for handle in ordered] == [str(number) for number in numbers]


@given(acyclic(), st.data())
def test_every_circle_is_refused(
    shape: tuple[int, list[tuple[int, int]]], data: st.DataObject
) -> None:
    """Turning the way between two services around is refused, and nothing has changed then."""
    size, edges = shape
    graph = ServiceGraph()
    handles = [graph.add(Numbered(str(number))) for number in range(size)]
    for service, dependency in edges:
        handles[service].add_dependency(handles[dependency])
    last = data.draw(st.sampled_from(handles))
    first = data.draw(st.sampled_from([last, *graph.dependents(last)]))
    before = [handle.dependencies for handle in handles], graph.start_order()

    with pytest.raises(ValueError, match="in a circle"):
        last.add_dependency(first)

    assert ([handle.dependencies for handle in handles], graph.start_order()) == before


class GraphMachine(RuleBasedStateMachine):
    """Drives a graph and a dictionary of sets side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.graph = ServiceGraph()
        self.services = [Numbered(str(number)) for number in range(8)]
        self.handles: dict[int, ServiceHandle] = {}
        self.model: dict[int, set[int]] = {}

    def reachable(self, number: int) -> set[int]:
        """Follow the dependencies of a service, itself included."""
        found, pending = {number}, [number]
        while pending:
            new = self.model[pending.pop()] - found
            found |= new
            pending += new
        return found

    @rule(number=_SERVICES)
    def add(self, number: int) -> None:
        """Add a service, or try to do it twice."""
        try:
            handle = self.graph.add(self.services[number])
        except ValueError:
            assert number in self.model
            return
        assert number not in self.model
        self.handles[number] = handle
        self.model[number] = set()

    @rule(number=_SERVICES)
    def remove(self, number: int) -> None:
        """Remove a service, if nothing depends on it."""
        if number not in self.handles:
            return
        is_free = number in self.model and not any(
            number in dependencies for dependencies in self.model.values()
        )
        try:
            self.graph.remove(self.handles[number])
        except ValueError:
            assert not is_free
            return
        assert is_free
        del self.model[number]

    @rule(number=_SERVICES)
    def remove_with_dependents(self, number: int) -> None:
        """Remove a service after all that depend on it."""
        if number not in self.model:
            return
        expected = {each for each in self.model if number in self.reachable(each)}
        handle = self.handles[number]
        gone = [*self.graph.dependents(handle), handle]
        assert {int(each.name) for each in gone} == expected
        for each in gone:
            self.graph.remove(each)
            del self.model[int(each.name)]

    @rule(number=_SERVICES, other=_SERVICES)
    def depend(self, number: int, other: int) -> None:
        """Declare a dependency, also with handles of removed services."""
        if number not in self.handles or other not in self.handles:
            return
        is_known = number in self.model and other in self.model
        is_allowed = is_known and number not in self.reachable(other)
        try:
            self.handles[number].add_dependency(self.handles[other])
        except ValueError:
            assert not is_allowed
            return
        assert is_allowed
        self.model[number].add(other)

    @invariant()
    def is_what_the_model_is(self) -> None:
        """The graph has the model's services and edges, and orders them."""
        ordered = self.graph.start_order()
        assert {int(handle.name) for handle in ordered} == set(self.model)
        assert len(ordered) == len(self.graph) == len(self.model)
        seen: set[ServiceHandle] = set()
        for handle in ordered:
            assert handle in self.graph
            assert seen.issuperset(handle.dependencies)
            assert {int(each.name) for each in handle.dependencies} == self.model[int(handle.name)]
            seen.add(handle)


TestGraph = GraphMachine.TestCase
TestGraph.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
