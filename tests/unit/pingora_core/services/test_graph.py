"""ServiceGraph: dependencies, order of start, what is refused."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from pingora_core.services import Service, ServiceGraph

if TYPE_CHECKING:
    from pingora_core.services import ServiceContext, ServiceHandle


class Named(Service):
    """A service that is never started."""

    async def start_service(self, context: ServiceContext) -> None:
        raise AssertionError


def graph_of(*names: str) -> tuple[ServiceGraph, dict[str, ServiceHandle]]:
    graph = ServiceGraph()
    return graph, {name: graph.add(Named(name)) for name in names}


def order(graph: ServiceGraph) -> list[str]:
    return [handle.name for handle in graph.start_order()]


def test_without_dependencies_the_order_is_that_of_adding() -> None:
    """Services nobody ordered start as they were added."""
    graph, _ = graph_of("c", "a", "b")

    assert order(graph) == ["c", "a", "b"]
    assert [handle.name for handle in graph] == ["c", "a", "b"]
    assert len(graph) == 3


def test_a_dependency_comes_first() -> None:
    """What a service depends on is put before it, wherever it was added."""
    graph, by = graph_of("proxy", "cache", "discovery")
    by["proxy"].add_dependency(by["cache"])
    by["cache"].add_dependency(by["discovery"])

    assert order(graph) == ["discovery", "cache", "proxy"]
    assert by["proxy"].dependencies == (by["cache"],)


def test_a_diamond_starts_its_root_once_and_first() -> None:
    """Two ways to one dependency do not start it twice."""
    graph, by = graph_of("top", "left", "right", "root")
    by["top"].add_dependencies([by["left"], by["right"]])
    by["left"].add_dependency(by["root"])
    by["right"].add_dependency(by["root"])

    assert order(graph) == ["root", "left", "right", "top"]


def test_a_complex_graph_is_ordered_topologically() -> None:
    """In a mesh of dependencies every service follows all of its own."""
    graph, by = graph_of(*"abcdefgh")
    edges = [tuple(edge) for edge in ["ab", "ac", "bd", "cd", "de", "af", "fg", "ge", "hb", "he"]]
    for service, dependency in edges:
        by[service].add_dependency(by[dependency])

    position = {name: index for index, name in enumerate(order(graph))}

    assert all(position[dependency] < position[service] for service, dependency in edges)
    assert len(position) == 8


def test_a_long_chain_needs_no_recursion() -> None:
    """Thousands of services in a row are ordered, and a circle through them is found."""
    names = [str(number) for number in range(3000)]
    graph, by = graph_of(*names)
    for service, dependency in itertools.pairwise(names):
        by[service].add_dependency(by[dependency])

    assert order(graph) == names[::-1]
    with pytest.raises(ValueError, match="circle"):
        by["2999"].add_dependency(by["0"])


def test_a_dependency_declared_twice_counts_once() -> None:
    """Declaring the same dependency again changes nothing."""
    _, by = graph_of("a", "b")

    by["a"].add_dependencies([by["b"], by["b"]])

    assert by["a"].dependencies == (by["b"],)


def test_a_circle_is_refused_and_named() -> None:
    """The message walks the circle; the dependency that would close it is not added."""
    graph, by = graph_of("a", "b", "c")
    by["a"].add_dependency(by["b"])
    by["b"].add_dependency(by["c"])

    with pytest.raises(ValueError, match="in a circle: 'c' -> 'a' -> 'b' -> 'c'"):
        by["c"].add_dependency(by["a"])

    assert by["c"].dependencies == ()
    assert order(graph) == ["c", "b", "a"]


def test_a_service_cannot_depend_on_itself() -> None:
    """The smallest circle is refused like any other."""
    _, by = graph_of("a")

    with pytest.raises(ValueError, match="in a circle: 'a' -> 'a'"):
        by["a"].add_dependency(by["a"])


def test_a_missing_dependency_is_refused() -> None:
    """A service of another server can never become ready here."""
    _, by = graph_of("a")
    _, elsewhere = graph_of("b")

    with pytest.raises(ValueError, match="'b', which was not added to the same server"):
        by["a"].add_dependency(elsewhere["b"])


def test_a_service_is_added_once() -> None:
    """The same object twice is a mistake; the same name is not."""
    graph = ServiceGraph()
    service = Named("a")
    handle = graph.add(service)
    graph.add(Named("a"))

    with pytest.raises(ValueError, match="added twice"):
        graph.add(service)

    assert repr(handle) == "ServiceHandle('a')"
    assert handle.service is service
