"""Via: each hop leaves its name, and finds it again in a loop."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from pingora_core.modules import ViaBuilder
from pingora_http import RequestHeader, ResponseHeader, Version


def _request(*hops: str, version: Version = Version.HTTP_11) -> RequestHeader:
    return RequestHeader("GET", "/", version, headers=[("Via", hop) for hop in hops])


async def test_the_first_hop() -> None:
    """The name of the hop, and the version that the request came in."""
    request = _request()

    assert await ViaBuilder("edge").init().request_header_filter(request) is None

    assert request.get_all("via") == ["1.1 edge"]


@pytest.mark.parametrize(
    ("version", "told"),
    [(Version.HTTP_10, "1.0"), (Version.HTTP_11, "1.1"), (Version.HTTP_20, "2")],
)
async def test_later_hops_come_last(version: Version, told: str) -> None:
    """The hops before stay in their order, however many lines they came in."""
    request = _request("1.0 fred, 1.1 p.example.net:80 (a comment)", "2 inner", version=version)

    assert await ViaBuilder("edge").init().request_header_filter(request) is None

    assert request.get_all("via") == [
        f"1.0 fred, 1.1 p.example.net:80 (a comment), 2 inner, {told} edge"
    ]


@pytest.mark.parametrize(
    "hop", ["1.1 edge", "1.1 EDGE", "1.0 fred ,\tHTTP/2  edge\t(v1, (x))", "1.1 a (\\)), 1.1 edge"]
)
async def test_a_loop_ends(hop: str) -> None:
    """A request that was here is answered with 508 and left as it is."""
    request = _request("1.1 first", hop)

    answer = await ViaBuilder("edge").init().request_header_filter(request)

    assert answer is not None
    assert (answer.header.status, answer.header.get("content-length")) == (508, "0")
    assert request.get_all("via") == ["1.1 first", hop]


@pytest.mark.parametrize(
    "hop", ["1.1 edges", "1.1 other (1.1 edge)", "1.1 other (a, 1.1 edge, b)", "edge", "edge 1.1"]
)
async def test_others_are_no_loop(hop: str) -> None:
    """Names of others, comments and what is no hop are not taken for a loop."""
    assert await ViaBuilder("edge").init().request_header_filter(_request(hop)) is None


async def test_loops_may_be_left_alone() -> None:
    """Where hops share a name on purpose."""
    request = _request("1.1 edge")
    module = ViaBuilder("edge", requests_end_loops=False).init()

    assert await module.request_header_filter(request) is None

    assert request.get_all("via") == ["1.1 edge, 1.1 edge"]


@pytest.mark.parametrize(("responses", "sent"), [(False, []), (True, ["1.1 edge"])])
async def test_responses(responses: bool, sent: list[str]) -> None:
    """Clients are told only where that is wanted."""
    response = ResponseHeader(200)

    await ViaBuilder("edge", responses=responses).init().response_header_filter(response, True)

    assert response.get_all("via") == sent


@pytest.mark.parametrize("name", ["", "two words", "a,b", "(edge)", "naïve", "a\r\nb"])
def test_a_pseudonym_is_a_token(name: str) -> None:
    """Anything else could be read as another hop."""
    with pytest.raises(ValueError, match="a pseudonym is a token"):
        ViaBuilder(name)


@given(st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30)))
def test_nonsense_is_passed_on(hops: list[str]) -> None:
    """Whatever a client sends, the name is added or the request is refused."""
    request = _request(*hops)
    filtering = ViaBuilder("edge").init().request_header_filter(request)

    with pytest.raises(StopIteration) as ended:
        filtering.send(None)

    if ended.value.value is None:
        assert request.get_all("via")[0].endswith("1.1 edge")
