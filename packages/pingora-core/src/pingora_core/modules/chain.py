"""The modules of a service, and the way of each request through them.

Theory of operation: a service keeps one ``HttpModules`` with a builder for each kind of module.
Each request gets its own ``HttpModuleCtx`` with an instance of each, and sends what it reads
and writes through it. A lazy builder makes its instance only when somebody asks for it by type,
so a module that is there but not used costs a request nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from pingora_core.modules.module import HttpModule

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pingora_core.modules.module import Answer, Downstream, HttpModuleBuilder
    from pingora_http import HeaderMap, RequestHeader, ResponseHeader

__all__ = ["HttpModuleCtx", "HttpModules"]

_M = TypeVar("_M", bound=HttpModule)


class HttpModules:
    """The kinds of modules of one service.

    Attributes:
        has_eager: Whether any module is made for every request, asked for or not.

    Source: pingora-core/src/modules/http/mod.rs.
    """

    __slots__ = ("_builders", "_eager", "_is_frozen", "has_eager")

    def __init__(self) -> None:
        # In running order.
        self._builders: dict[type[HttpModule], HttpModuleBuilder] = {}
        self._eager: tuple[HttpModuleBuilder, ...] = ()
        self._is_frozen = False
        self.has_eager: bool = False

    def add_module(self, builder: HttpModuleBuilder) -> None:
        """Add a kind of module.

        Args:
            builder: Makes the modules. Among equal orders the one that was added first runs
                first.

        Raises:
            ValueError: If there is a builder for this type already.
            RuntimeError: After the first request.
        """
        module_type = builder.module_type
        if self._is_frozen:
            msg = f"{module_type.__name__} comes too late: modules are added before any request"
            raise RuntimeError(msg)
        if module_type in self._builders:
            msg = f"there is a module of type {module_type.__name__} already"
            raise ValueError(msg)
        builders = sorted((*self._builders.values(), builder), key=lambda each: -each.order)
        self._builders = {each.module_type: each for each in builders}
        self._eager = tuple(each for each in builders if not each.lazy)
        self.has_eager = bool(self._eager)

    def builder_of(self, module_type: type[HttpModule]) -> HttpModuleBuilder | None:
        """Find out what makes the modules of a type.

        Args:
            module_type: The type.

        Returns:
            Its builder; None if there is none.
        """
        return self._builders.get(module_type)

    def __contains__(self, module_type: type[HttpModule]) -> bool:
        return module_type in self._builders

    def __len__(self) -> int:
        return len(self._builders)

    def build_ctx(self, downstream: Downstream | None = None) -> HttpModuleCtx:
        """Make the modules of one request.

        Args:
            downstream: The client's side, for the modules that want to know it; its request
                head must have been read.

        Returns:
            The context to send the exchange through.
        """
        self._is_frozen = True
        modules = [_make(builder, downstream) for builder in self._eager]
        return HttpModuleCtx(modules, self._builders, downstream)


class HttpModuleCtx:
    """The modules of one request; made by ``HttpModules.build_ctx``.

    ``response_trailer_filter`` and ``response_done_filter`` pass what one module ends its body
    with through those that run after it, so that modules can be stacked. (In Pingora the last
    module wins.)

    Args:
        modules: The modules there are from the start, in running order.
        builders: Those of all modules, in running order; not changed.
        downstream: The client's side, for modules that are made later.
    """

    __slots__ = ("_builders", "_downstream", "_modules")

    def __init__(
        self,
        modules: list[HttpModule],
        builders: Mapping[type[HttpModule], HttpModuleBuilder],
        downstream: Downstream | None,
    ) -> None:
        self._modules = modules
        self._builders = builders
        self._downstream = downstream

    @property
    def has_modules(self) -> bool:
        """Whether there is any module to run; if not, the filters need not be called."""
        return bool(self._modules)

    def get(self, module_type: type[_M]) -> _M | None:
        """Look a module up, and make it if it is lazy.

        Args:
            module_type: Its class, as the builder names it.

        Returns:
            This request's instance; None if the service has no such module.
        """
        for module in self._modules:
            if type(module) is module_type:
                return module
        builder = self._builders.get(module_type)
        if builder is None:
            return None
        made = _make(builder, self._downstream)
        assert isinstance(made, module_type)  # _make has checked; this tells the type checker.
        modules: list[HttpModule] = [*self._modules, made]
        by_type = {type(module): module for module in modules}
        # A new list: a filter that asks may be called from a loop over the old one.
        self._modules = [by_type[each] for each in self._builders if each in by_type]
        return made

    def __getitem__(self, module_type: type[_M]) -> _M:
        module = self.get(module_type)
        if module is None:
            raise KeyError(module_type)
        return module

    async def request_header_filter(self, request: RequestHeader) -> Answer | None:
        """Send the request head through all modules, until one of them answers.

        Args:
            request: The head; changed in place.

        Returns:
            The answer; None to go on.
        """
        for module in self._modules:
            answer = await module.request_header_filter(request)
            if answer is not None:
                return answer
        return None

    def request_body_start(self) -> None:
        """Tell all modules that an attempt begins to send the request body."""
        for module in self._modules:
            module.request_body_start()

    async def request_body_filter(self, body: bytes | None, end: bool) -> bytes | None:  # noqa: FBT001 - Pingora's signature
        """Send a piece of the request body through all modules.

        Args:
            body: The piece; None when it only tells the end.
            end: Whether the body ends with it.

        Returns:
            What is sent instead.
        """
        for module in self._modules:
            body = await module.request_body_filter(body, end)
        return body

    async def response_header_filter(self, response: ResponseHeader, end: bool) -> None:  # noqa: FBT001 - Pingora's signature
        """Send a response head through all modules.

        Args:
            response: The head; changed in place.
            end: Whether the message ends with it.
        """
        for module in self._modules:
            await module.response_header_filter(response, end)

    def error_page_filter(self, response: ResponseHeader) -> None:
        """Send the head of an error page through all modules.

        Args:
            response: The head; changed in place.
        """
        for module in self._modules:
            module.error_page_filter(response)

    def response_body_filter(self, body: bytes | None, end: bool) -> bytes | None:  # noqa: FBT001 - Pingora's signature
        """Send a piece of the response body through all modules.

        Args:
            body: The piece; None when it only tells the end.
            end: Whether the message ends with it.

        Returns:
            What is sent instead.
        """
        for module in self._modules:
            body = module.response_body_filter(body, end)
        return body

    def response_trailer_filter(self, trailers: HeaderMap | None) -> bytes | None:
        """Send the trailers through all modules.

        Args:
            trailers: The fields, changed in place; None when there are none.

        Returns:
            Bytes of the body that are sent before the trailers; None for nothing.
        """
        rest: bytes | None = None
        for module in self._modules:
            if rest is not None:
                rest = module.response_body_filter(rest, False)  # noqa: FBT003
            rest = _joined(rest, module.response_trailer_filter(trailers))
        return rest

    def response_done_filter(self) -> bytes | None:
        """Tell all modules that the response has ended.

        Returns:
            Bytes that are sent last; None for nothing.
        """
        rest: bytes | None = None
        for module in self._modules:
            if rest is not None:
                rest = module.response_body_filter(rest, False)  # noqa: FBT003
            rest = _joined(rest, module.response_done_filter())
        return rest


def _make(builder: HttpModuleBuilder, downstream: Downstream | None) -> HttpModule:
    made = builder.init() if downstream is None else builder.init_for(downstream)
    if type(made) is not builder.module_type:
        # It would not be found by its type, or be made twice.
        msg = f"the builder of {builder.module_type.__name__} made a {type(made).__name__}"
        raise TypeError(msg)
    return made


def _joined(first: bytes | None, second: bytes | None) -> bytes | None:
    if first is None:
        return second
    return first if second is None else first + second
