"""The module that refuses what is too much, and tells clients how much is not.

Theory of operation: before any filter of the application each policy looks at the request. All
have to allow it. If there are several, those that decide at once are first asked without taking
anything, so that a request which one of them refuses costs the client nothing elsewhere. Then those
that have to ask somebody are waited for, and at last everything is taken. What was decided is
written on the response, wherever that comes from.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from pingora_core.modules._rate_limit_fields import (
    RATE_LIMIT,
    RATE_LIMIT_POLICY,
    limit_item,
    quota_exceeded,
    seconds,
)
from pingora_core.modules.module import Answer, HttpModule, HttpModuleBuilder
from pingora_core.protocols.http.bridge.grpc import GrpcStatus, trailers_only
from pingora_core.protocols.http.error_page import generate_error
from pingora_core.protocols.http.subrequest import SubrequestSession
from pingora_http.names import CONTENT_TYPE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pingora_core.modules.module import Downstream
    from pingora_core.modules.rate_limit_policy import RateLimitCheck, RateLimitPolicy, Verdict
    from pingora_http import RequestHeader, ResponseHeader

    RefusalPage: TypeAlias = Callable[["RateLimitRefusal"], tuple[str, bytes]]

__all__ = ["RateLimitRefusal", "RateLimiter", "RateLimiterBuilder"]

# The mirror of compression: before modules that do not care, with room for some that come first.
_ORDER: Final = 16384
_UNAVAILABLE: Final = 503


class RateLimitRefusal(NamedTuple):
    """Why a request is refused.

    Attributes:
        policies: Names of the policies that refuse it.
        status: The status of the answer: the one of the builder, or 503 if no limiter could be
            asked.
        retry_after: Seconds after which it may be tried again; None if never, or if nobody knows.
        downstream: The client's side of the request.
    """

    policies: tuple[str, ...]
    status: int
    retry_after: int | None
    downstream: Downstream


class _Rules:
    """What the modules of one builder share."""

    __slots__ = ("enforced", "page", "shadows", "status", "tells_allowed")

    def __init__(
        self,
        policies: tuple[RateLimitPolicy, ...],
        *,
        status: int,
        tells_allowed: bool,
        page: RefusalPage | None,
    ) -> None:
        self.enforced: tuple[RateLimitPolicy, ...] = tuple(
            each for each in policies if not each.is_shadow
        )
        self.shadows: tuple[RateLimitPolicy, ...] = tuple(
            each for each in policies if each.is_shadow
        )
        self.status: int = status
        self.tells_allowed: bool = tells_allowed
        self.page: RefusalPage | None = page


class RateLimiter(HttpModule):
    """Limits one request; made by ``RateLimiterBuilder``.

    Args:
        rules: What the modules of one builder share.
        downstream: The client's side.

    Attributes:
        refused_by: Names of the policies that have refused the request, for access logs.
        shadowed_by: Names of those that would have, if they were more than shadows.
    """

    __slots__ = ("_checks", "_downstream", "_rules", "refused_by", "shadowed_by")

    def __init__(self, rules: _Rules, downstream: Downstream) -> None:
        self._rules = rules
        self._downstream = downstream
        self._checks: list[RateLimitCheck] = []
        self.refused_by: tuple[str, ...] = ()
        self.shadowed_by: tuple[str, ...] = ()

    async def request_header_filter(self, request: RequestHeader) -> Answer | None:
        """Ask the policies; see ``HttpModule``.

        Args:
            request: The head.

        Returns:
            None if the request may go on, else the answer to it.
        """
        downstream = self._downstream
        checks: list[RateLimitCheck] = []
        for policy in self._rules.enforced:
            check = policy.look_at(downstream)
            if check is not None:
                checks.append(check)
        if checks:
            refusing = await _ask(checks)
            # Only now: an error page must not tell what was not decided.
            self._checks = checks
            if refusing:
                return self._refuse(request, refusing)
            for check in checks:
                if not check.has_failed:
                    check.policy.counts.allowed += 1
        if self._rules.shadows:
            await self._ask_shadows()
        return None

    async def response_header_filter(self, response: ResponseHeader, end: bool) -> None:  # noqa: FBT001 - Pingora's signature
        """Tell the client its limits; see ``HttpModule``."""
        _ = end
        if response.status >= 200:
            self.error_page_filter(response)

    def error_page_filter(self, response: ResponseHeader) -> None:
        """Tell the client its limits; see ``HttpModule``.

        What an origin behind the proxy tells about its own limits stays; both fields are lists.
        """
        refused_by = self.refused_by
        if not self._checks or not (refused_by or self._rules.tells_allowed):
            return
        policies: list[bytes] = []
        limits: list[bytes] = []
        for check in self._checks:
            policy, verdict = check.policy, check.verdict
            policies.append(policy.item + check.partition)
            # Retry-After must not lie before the end of a window that is told with it.
            if verdict is not None and (not refused_by or policy.name in refused_by):
                item = limit_item(policy.label, verdict.remaining, _effective_window(verdict))
                limits.append(item + check.partition)
        response.append_header(RATE_LIMIT_POLICY, b", ".join(policies))
        if limits:
            response.append_header(RATE_LIMIT, b", ".join(limits))

    async def _ask_shadows(self) -> None:
        names: list[str] = []
        for policy in self._rules.shadows:
            check = policy.look_at(self._downstream)
            if check is None:
                continue
            is_allowed = await check.acquire()
            if check.has_failed:
                continue
            if is_allowed:
                policy.counts.allowed += 1
                continue
            policy.counts.shadowed += 1
            policy.log(logging.INFO, "would have been refused")
            names.append(policy.name)
        self.shadowed_by = tuple(names)

    def _refuse(self, request: RequestHeader, refusing: list[RateLimitCheck]) -> Answer:
        rules = self._rules
        waits: list[float] = []
        for check in refusing:
            policy, verdict = check.policy, check.verdict
            if verdict is None:
                waits.append(math.inf)
                continue
            policy.counts.limited += 1
            policy.log(logging.INFO, "were refused")
            waits.append(verdict.retry_after)
        names = tuple(check.policy.name for check in refusing)
        self.refused_by = names
        is_over = any(not check.has_failed for check in refusing)
        wait = max(waits)
        retry_after = seconds(wait) if math.isfinite(wait) else None
        refusal = RateLimitRefusal(
            names, rules.status if is_over else _UNAVAILABLE, retry_after, self._downstream
        )
        content_type = request.get_raw(CONTENT_TYPE)
        if content_type is not None and content_type.lower().startswith(b"application/grpc"):
            answer = Answer(_grpc_answer(refusal, content_type, is_over=is_over))
        else:
            answer = self._page(refusal, refusing, is_over=is_over)
        if retry_after is not None:
            answer.header.insert_header(b"Retry-After", b"%d" % retry_after)
        return answer

    def _page(
        self, refusal: RateLimitRefusal, refusing: list[RateLimitCheck], *, is_over: bool
    ) -> Answer:
        page = self._rules.page
        if page is not None:
            media_type, body = page(refusal)
        elif is_over:
            labels = [check.policy.label for check in refusing]
            media_type = "application/problem+json"
            body = quota_exceeded(labels, refusal.status)
        else:
            media_type, body = "", b""
        header = generate_error(refusal.status)
        if body:
            header.insert_header(b"Content-Type", media_type)
            header.set_content_length(len(body))
        return Answer(header, body)


class RateLimiterBuilder(HttpModuleBuilder):
    """Limits the requests of a service.

    A request that the proxy makes itself, for instance to refresh its cache, is not limited.

    Args:
        policies: The rules; all of them have to allow a request. Without any, requests cost
            nothing.
        status: The status of refusals, 400 to 599. Calls of gRPC are refused with HTTP status 200
            and ``RESOURCE_EXHAUSTED``, as the protocol demands.
        fields_on_allowed: Whether responses to requests that are not refused tell the limits too.
        page: Makes the media type and the body of refusals that are not of gRPC; None for the
            problem ``quota-exceeded`` of the draft, in JSON.
        order: When the module runs; higher is earlier. It has to run before all modules that are to
            be spared.

    Attributes:
        policies: The rules.

    Raises:
        ValueError: If two policies have the same name, or the status is out of range.

    Source: draft-ietf-httpapi-ratelimit-headers-11; RFC 6585 section 4 for the status.
    """

    module_type = RateLimiter

    def __init__(
        self,
        policies: Iterable[RateLimitPolicy],
        *,
        status: int = 429,
        fields_on_allowed: bool = True,
        page: RefusalPage | None = None,
        order: int = _ORDER,
    ) -> None:
        self.policies: tuple[RateLimitPolicy, ...] = tuple(policies)
        if len({each.name for each in self.policies}) < len(self.policies):
            msg = f"policies have names of their own, not {[each.name for each in self.policies]}"
            raise ValueError(msg)
        if not 400 <= status <= 599:
            msg = f"a refusal has a status from 400 to 599, not {status}"
            raise ValueError(msg)
        self.order = order
        self.lazy: bool = not self.policies
        self._rules = _Rules(
            self.policies, status=status, tells_allowed=fields_on_allowed, page=page
        )
        self._no_rules = _Rules((), status=status, tells_allowed=False, page=None)

    def init(self) -> RateLimiter:
        """Refuse to make a module that knows no client; see ``HttpModuleBuilder``.

        Raises:
            RuntimeError: Always.
        """
        msg = "a rate limiter must know whom it serves"
        raise RuntimeError(msg)

    def init_for(self, downstream: Downstream) -> RateLimiter:
        """Make the module of one request; see ``HttpModuleBuilder``.

        Args:
            downstream: The client's side.

        Returns:
            The module.
        """
        is_own = isinstance(downstream, SubrequestSession)
        return RateLimiter(self._no_rules if is_own else self._rules, downstream)


async def _ask(checks: list[RateLimitCheck]) -> list[RateLimitCheck]:
    # Asks all; says which refuse.
    if len(checks) == 1:
        return [] if await checks[0].acquire() else checks
    refusing = [check for check in checks if not check.peek()]
    if refusing:
        for check in refusing:
            check.tell_refused()
        return refusing
    for check in sorted(checks, key=_is_local):
        if not await check.acquire():
            return [check]
    return []


def _is_local(check: RateLimitCheck) -> bool:
    return check.policy.local is not None


def _effective_window(verdict: Verdict) -> float:
    if verdict.is_allowed or not math.isfinite(verdict.retry_after):
        return verdict.reset_after
    return verdict.retry_after


def _grpc_answer(
    refusal: RateLimitRefusal, content_type: bytes, *, is_over: bool
) -> ResponseHeader:
    if not is_over:
        return trailers_only(
            GrpcStatus.UNAVAILABLE, "no limiter answers", content_type=content_type
        )
    message = f"too much for {', '.join(refusal.policies)}"
    return trailers_only(GrpcStatus.RESOURCE_EXHAUSTED, message, content_type=content_type)
