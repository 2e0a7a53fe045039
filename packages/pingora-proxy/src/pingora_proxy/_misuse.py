"""Mistakes in a user's class, told in the words of the user's class.

Most can be seen before the first request, and type checkers find nearly all of them. Who runs none
would find out from a request that fails, or never: a callback whose name is misspelt is not called,
and everything else goes on.
"""

from __future__ import annotations

import difflib
import inspect
import logging
import weakref
from typing import TYPE_CHECKING, Final

from pingora_core.upstreams.peer import HttpPeer
from pingora_proxy.hooks import ProxyHttp

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FunctionType
    from typing import TypeVar

    CTX = TypeVar("CTX")

__all__ = ["check_callbacks", "check_peer", "tell_of_silence"]

_logger = logging.getLogger(__name__)

_CALLBACKS: Final = {
    name: function
    for name in dir(ProxyHttp)
    if not name.startswith("_") and inspect.isfunction(function := getattr(ProxyHttp, name))
}
_SILENT: Final[weakref.WeakSet[type]] = weakref.WeakSet()
_SIMILAR: Final = 0.85
"""How alike two names are that are taken for the same word (`difflib`)."""


def check_callbacks(app: ProxyHttp[CTX]) -> None:
    """Look for callbacks that cannot work, and for methods that seem to be misspelt callbacks.

    Args:
        app: The user's object.

    Raises:
        TypeError: If a callback takes other arguments than it is given, or is a coroutine function
            where a plain one is called.
    """
    kind = type(app)
    for name, mine in _methods(kind):
        own = f"{kind.__name__}.{name}"
        wanted = _CALLBACKS.get(name)
        if wanted is None:
            _suspect(kind, own, name)
        elif mine is not wanted:
            _check(own, mine, wanted)


def check_peer(app: ProxyHttp[CTX], peer: object) -> None:
    """Look at what `upstream_peer` has returned.

    Args:
        app: The user's object.
        peer: What it was.

    Raises:
        TypeError: If it is no peer.
    """
    if not isinstance(peer, HttpPeer):
        msg = f"{type(app).__name__}.upstream_peer returned {peer!r}: return an HttpPeer, or raise"
        raise TypeError(msg)


def tell_of_silence(app: ProxyHttp[CTX]) -> None:
    """Log that a request ends without an answer, once for each class.

    Args:
        app: The user's object.
    """
    kind = type(app)
    if kind in _SILENT:
        return
    _SILENT.add(kind)
    _logger.warning(
        "%s.request_filter returned True, and nothing was answered (is an await missing?): "
        "the connection is closed; this is not told again",
        kind.__name__,
    )


def _methods(kind: type) -> Iterator[tuple[str, FunctionType]]:
    # What is public and not the framework's own.
    names = {
        name
        for each in kind.__mro__
        if each is not object and not each.__module__.startswith("pingora_")
        for name in vars(each)
        if not name.startswith("_")
    }
    for name in sorted(names):
        found = inspect.getattr_static(kind, name)
        if inspect.isfunction(found):
            yield name, found


def _suspect(kind: type, own: str, name: str) -> None:
    # A helper that is named after a callback stands beside the callback, most often.
    for callback in difflib.get_close_matches(name, _CALLBACKS, n=1, cutoff=_SIMILAR):
        if inspect.getattr_static(kind, callback) is _CALLBACKS[callback]:
            _logger.warning(
                "%s is no callback and never called by the framework: is %s meant? "
                "(a name that begins with _ is not asked about)",
                own,
                callback,
            )


def _check(own: str, mine: FunctionType, wanted: FunctionType) -> None:
    parameters = list(inspect.signature(wanted).parameters)
    try:
        inspect.signature(mine).bind(*parameters)
    except TypeError as error:
        msg = f"{own}: {error}; it is called with ({', '.join(parameters)})"
        raise TypeError(msg) from None
    is_async = inspect.iscoroutinefunction(inspect.unwrap(mine))
    if inspect.iscoroutinefunction(wanted):
        # A plain function may return something to wait for; one that is annotated so does.
        if not is_async and not _returns_awaitable(mine):
            _logger.warning("%s is awaited by the framework: write async def", own)
    elif is_async:
        raise TypeError(f"{own} is called without await: write def, not async def")


def _returns_awaitable(function: FunctionType) -> bool:
    said = str(inspect.signature(function).return_annotation)
    return any(word in said for word in ("Awaitable", "Coroutine", "Future"))
