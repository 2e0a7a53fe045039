"""Modules: registration, order, look-up, and the ways through them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pingora_core.modules import (
    Answer,
    HttpModule,
    HttpModuleBuilder,
    HttpModules,
)
from pingora_core.protocols.address import InetAddress
from pingora_core.protocols.digest import Digest
from pingora_http import HeaderMap, RequestHeader, ResponseHeader

if TYPE_CHECKING:
    from pingora_core.modules import (
        Downstream,
        HttpModuleCtx,
    )


class _Client:
    """A client's side without a connection."""

    def __init__(self) -> None:
        self.req_header = RequestHeader("GET", "/")
        self.client_addr = InetAddress("192.0.2.1", 1234)
        self.digest = Digest()


class _Marks(HttpModule):
    """Leaves its name in everything that passes."""

    name = "?"
    downstream: Downstream | None = None

    async def request_header_filter(self, request: RequestHeader) -> Answer | None:
        request.append_header("Seen", self.name)
        return None

    async def request_body_filter(self, body: bytes | None, end: bool) -> bytes | None:
        return self._mark(body, end)

    async def response_header_filter(self, response: ResponseHeader, end: bool) -> None:
        response.append_header("Seen", f"{self.name} {end}")

    def response_body_filter(self, body: bytes | None, end: bool) -> bytes | None:
        return self._mark(body, end)

    def response_trailer_filter(self, trailers: HeaderMap | None) -> bytes | None:
        if trailers is not None:
            trailers.append_header("Seen", self.name)
        return f"<{self.name} trailed>".encode()

    def response_done_filter(self) -> bytes | None:
        return f"<{self.name} done>".encode()

    def _mark(self, body: bytes | None, end: bool) -> bytes:
        return (body or b"") + self.name.encode() + (b"!" if end else b"")


class _A(_Marks):
    name = "a"


class _B(_Marks):
    name = "b"


class _C(_Marks):
    name = "c"


class _Silent(HttpModule):
    """Changes nothing."""


class _Builder(HttpModuleBuilder):
    def __init__(self, made: type[HttpModule], order: int = 0, *, lazy: bool = False) -> None:
        self.made = made
        self.order = order
        self.lazy = lazy
        self.count = 0

    @property
    def module_type(self) -> type[HttpModule]:
        return self.made

    def init(self) -> HttpModule:
        self.count += 1
        return self.made()


class _KnowingBuilder(HttpModuleBuilder):
    module_type = _A

    def __init__(self, *, lazy: bool) -> None:
        self.lazy = lazy

    def init(self) -> _A:
        return _A()

    def init_for(self, downstream: Downstream) -> _A:
        module = _A()
        module.downstream = downstream
        return module


class _LyingBuilder(HttpModuleBuilder):
    module_type = _A

    def init(self) -> HttpModule:
        return _B()


def _ctx(*builders: HttpModuleBuilder) -> HttpModuleCtx:
    modules = HttpModules()
    for builder in builders:
        modules.add_module(builder)
    return modules.build_ctx()


async def _order(ctx: HttpModuleCtx) -> list[str]:
    request = RequestHeader("GET", "/")
    await ctx.request_header_filter(request)
    return request.get_all("seen")


async def test_a_higher_order_runs_first() -> None:
    """The order decides, and the order of adding among equals."""
    ctx = _ctx(_Builder(_A, -5), _Builder(_B), _Builder(_C), _Builder(_Silent, 9))

    assert await _order(ctx) == ["b", "c", "a"]


async def test_everything_passes_all_modules_in_one_order() -> None:
    """Requests and responses meet the modules in the same order; bodies are handed on."""
    ctx = _ctx(_Builder(_A), _Builder(_Silent), _Builder(_B))
    response = ResponseHeader(200)
    trailers = HeaderMap()

    assert await _order(ctx) == ["a", "b"]
    assert await ctx.request_body_filter(b"x", False) == b"xab"
    assert await ctx.request_body_filter(None, True) == b"a!b!"
    await ctx.response_header_filter(response, True)
    assert response.get_all("seen") == ["a True", "b True"]
    assert ctx.response_body_filter(b"y", False) == b"yab"
    assert ctx.response_body_filter(None, True) == b"a!b!"
    ctx.response_trailer_filter(trailers)
    assert trailers.get_all("seen") == ["a", "b"]


def test_what_ends_one_modules_body_passes_the_next() -> None:
    """The rest that one module held back is a piece of body for those behind it."""
    ctx = _ctx(_Builder(_A), _Builder(_Silent), _Builder(_B))

    assert ctx.response_done_filter() == b"<a done>b<b done>"
    assert ctx.response_trailer_filter(None) == b"<a trailed>b<b trailed>"


async def test_defaults_change_nothing() -> None:
    """A module overrides only what it cares for."""
    ctx = _ctx(_Builder(_Silent))
    request, response = RequestHeader("GET", "/"), ResponseHeader(200)
    body = b"body"

    await ctx.request_header_filter(request)
    await ctx.response_header_filter(response, False)

    assert (len(request), len(response)) == (0, 0)
    assert await ctx.request_body_filter(body, True) is body
    assert ctx.response_body_filter(body, True) is body
    assert ctx.response_body_filter(None, True) is None
    assert ctx.response_trailer_filter(HeaderMap()) is None
    assert ctx.response_done_filter() is None


def test_modules_are_found_by_type() -> None:
    """Each request has one instance of each kind."""
    modules = HttpModules()
    modules.add_module(_Builder(_A))
    first, second = modules.build_ctx(), modules.build_ctx()

    assert isinstance(first.get(_A), _A)
    assert first.get(_A) is first[_A]
    assert first.get(_A) is not second.get(_A)
    assert first.get(_B) is None
    with pytest.raises(KeyError):
        first[_B]


def test_subclasses_are_kinds_of_their_own() -> None:
    """Looking up the base class does not find what is derived from it."""
    ctx = _ctx(_Builder(_A))

    assert ctx.get(_Marks) is None
    assert ctx.get(HttpModule) is None


async def test_a_lazy_module_is_made_when_asked_for() -> None:
    """Unasked it costs nothing; asked it takes its place in the order."""
    lazy = _Builder(_B, order=1, lazy=True)
    ctx = _ctx(_Builder(_A, 2), lazy, _Builder(_C))

    assert await _order(ctx) == ["a", "c"]
    assert lazy.count == 0
    assert isinstance(ctx.get(_B), _B)
    assert ctx.get(_B) is ctx.get(_B)
    assert lazy.count == 1
    assert await _order(ctx) == ["a", "b", "c"]


def test_without_modules_there_is_nothing_to_call() -> None:
    """Whoever drives the filters can see that there are none."""
    modules = HttpModules()
    modules.add_module(_Builder(_A, lazy=True))
    ctx = modules.build_ctx()
    assert not modules.has_eager
    without = ctx.has_modules

    ctx.get(_A)

    assert (without, ctx.has_modules) == (False, True)


async def test_a_module_may_be_made_from_within_a_filter() -> None:
    """Asking for a lazy module while the modules run does not disturb the run."""

    class Asking(HttpModule):
        async def request_header_filter(self, request: RequestHeader) -> None:
            ctx.get(_B)
            request.append_header("Seen", "asking")

    ctx = _ctx(_Builder(Asking), _Builder(_B, order=1, lazy=True), _Builder(_C))

    assert await _order(ctx) == ["asking", "c"]
    assert await _order(ctx) == ["b", "asking", "c"]


@pytest.mark.parametrize("lazy", [False, True])
def test_a_builder_is_told_whom_it_serves(lazy: bool) -> None:
    """A builder that wants to know the client gets to know it, lazy or not."""
    modules = HttpModules()
    modules.add_module(_KnowingBuilder(lazy=lazy))
    modules.add_module(_Builder(_B))
    client = _Client()

    assert modules.build_ctx(client)[_A].downstream is client
    assert modules.build_ctx()[_A].downstream is None
    assert isinstance(modules.build_ctx(client)[_B], _B)


def test_two_builders_of_one_type_are_misuse() -> None:
    """There is one module of a kind."""
    modules = HttpModules()
    modules.add_module(_Builder(_A))

    with pytest.raises(ValueError, match="_A already"):
        modules.add_module(_Builder(_A))

    assert len(modules) == 1
    assert _A in modules
    assert _B not in modules


def test_adding_after_the_first_request_is_misuse() -> None:
    """All requests of a service have the same modules."""
    modules = HttpModules()
    modules.build_ctx()

    with pytest.raises(RuntimeError, match="_A comes too late"):
        modules.add_module(_Builder(_A))


def test_a_builder_that_makes_something_else_is_misuse() -> None:
    """Such a module could not be found."""
    modules = HttpModules()
    modules.add_module(_LyingBuilder())

    with pytest.raises(TypeError, match="builder of _A made a _B"):
        modules.build_ctx()


class _Answering(_Marks):
    name = "answer"

    async def request_header_filter(self, request: RequestHeader) -> Answer | None:
        await super().request_header_filter(request)
        return Answer(ResponseHeader(429), b"no")

    def error_page_filter(self, response: ResponseHeader) -> None:
        response.append_header("Seen", self.name)


async def test_an_answer_ends_the_way_of_a_request() -> None:
    """Modules that run later do not see the request, but all of them see responses."""
    modules = HttpModules()
    for kind in (_A, _Answering, _B):
        modules.add_module(_Builder(kind))
    ctx = modules.build_ctx()
    request = RequestHeader("GET", "/")

    answer = await ctx.request_header_filter(request)

    assert answer is not None
    assert (answer.header.status, answer.body) == (429, b"no")
    assert request.get_all("seen") == ["a", "answer"]
    await ctx.response_header_filter(answer.header, end=False)
    assert answer.header.get_all("seen") == ["a False", "answer False", "b False"]


async def test_without_an_answer_a_request_goes_on() -> None:
    """As with all modules that only look, or change something."""
    modules = HttpModules()
    for kind in (_A, _B):
        modules.add_module(_Builder(kind))

    assert await modules.build_ctx().request_header_filter(RequestHeader("GET", "/")) is None


def test_error_pages_pass_a_filter_of_their_own() -> None:
    """Modules that have none leave them alone."""
    modules = HttpModules()
    for kind in (_A, _Answering):
        modules.add_module(_Builder(kind))
    page = ResponseHeader(502)

    modules.build_ctx().error_page_filter(page)

    assert page.get_all("seen") == ["answer"]
