"""ServiceGraph: dependencies, order of start, what is refused."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from pingora_core.conf import CONFIG_ERROR
from pingora_core.services import Placement, Service, ServiceGraph
from pingora_error import Error

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


def test_a_service_can_be_removed_and_added_again() -> None:
    """Nothing is left of a removed service; its old handle is of no use any more."""
    graph, by = graph_of("a", "b")
    by["b"].add_dependency(by["a"])

    graph.remove(by["b"])

    assert order(graph) == ["a"]
    assert by["b"] not in graph
    with pytest.raises(ValueError, match="'b' is not in this server"):
        graph.remove(by["b"])
    with pytest.raises(ValueError, match="'b', which was not added to the same server"):
        by["a"].add_dependency(by["b"])
    with pytest.raises(ValueError, match="'b' was removed and cannot depend on anything"):
        by["b"].add_dependency(by["a"])

    again = graph.add(by["b"].service)
    by["a"].add_dependency(again)
    assert order(graph) == ["b", "a"]


def test_what_others_depend_on_is_not_removed() -> None:
    """The message names those that stand in the way."""
    graph, by = graph_of("a", "b", "c")
    by["b"].add_dependency(by["a"])
    by["c"].add_dependency(by["a"])

    with pytest.raises(ValueError, match="'a' cannot be removed: it is needed by 'b', 'c'"):
        graph.remove(by["a"])

    assert order(graph) == ["a", "b", "c"]


def test_dependents_are_found_in_an_order_of_removal() -> None:
    """What depends on a service through others counts too; what does not, does not."""
    graph, by = graph_of("top", "left", "right", "root", "other")
    by["top"].add_dependencies([by["left"], by["right"]])
    by["left"].add_dependency(by["root"])
    by["right"].add_dependency(by["root"])

    dependents = graph.dependents(by["root"])

    assert [handle.name for handle in dependents] == ["top", "right", "left"]
    assert graph.dependents(by["top"]) == []
    for handle in dependents:
        graph.remove(handle)
    assert order(graph) == ["root", "other"]


@pytest.mark.parametrize(
    ("service", "dependency", "is_allowed"),
    [
        (Placement.EVERY_WORKER, Placement.EVERY_WORKER, True),
        (Placement.ONE_WORKER, Placement.EVERY_WORKER, True),
        (Placement.ONE_WORKER, Placement.ONE_WORKER, True),
        (Placement.EVERY_WORKER, Placement.ONE_WORKER, False),
    ],
)
def test_no_worker_waits_for_what_another_one_runs(
    service: Placement, dependency: Placement, is_allowed: bool
) -> None:
    """A service that runs everywhere cannot depend on one that runs in one worker."""
    graph, by = graph_of("a", "b")
    by["a"].add_dependency(by["b"])
    by["a"].service.placement = service
    by["b"].service.placement = dependency

    if is_allowed:
        graph.check_placement()
        return
    with pytest.raises(Error) as caught:
        graph.check_placement()
    assert caught.value.etype is CONFIG_ERROR
    assert "'a' runs in every worker and depends on 'b', which runs in one" in str(caught.value)


def test_all_misplaced_dependencies_are_told_at_once() -> None:
    """One line names every pair."""
    graph, by = graph_of("a", "b", "one", "two")
    by["a"].add_dependencies([by["one"], by["two"]])
    by["b"].add_dependency(by["one"])
    for name in ("one", "two"):
        by[name].service.placement = Placement.ONE_WORKER

    with pytest.raises(Error) as caught:
        graph.check_placement()

    text = str(caught.value)
    assert text.count("runs in every worker and") == 3
    assert "\n" not in text
