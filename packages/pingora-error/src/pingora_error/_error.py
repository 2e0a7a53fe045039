"""The one exception that every failure in this family of packages is.

``Error`` is not subclassed per type: what failed is data (``etype``), so that one ``except``
clause sees everything and a ``match`` tells the cases apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_error._source import ErrorSource, RetryType

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from pingora_error._kind import ErrorKind

__all__ = ["Error"]


class Error(Exception):
    """A failure: what, where from, whether to retry, in which context and because of what.

    Attributes:
        etype: What failed.
        esource: The side that caused it.
        retry: Whether another attempt makes sense.
        context: What was going on, for the log; "" if there is nothing to add.

    Args:
        etype: What failed.
        context: What was going on, for the log.
        source: The side that caused it.
        cause: The failure behind this one; becomes ``__cause__``.
        retry: The retry decision. None inherits it from a cause that is an ``Error`` too, and is
            ``NO_RETRY`` otherwise. (``raise ... from ...`` is too late to inherit anything.)

    Examples:
        >>> from pingora_error import ErrorType
        >>> refused = OSError(111, "Connection refused")
        >>> error = Error.up(ErrorType.CONNECT_REFUSED, "to 10.0.0.1:80", cause=refused)
        >>> print(error)
        Upstream ConnectRefused context: to 10.0.0.1:80 cause: ConnectionRefusedError: [Errno 111] Connection refused
        >>> print(error.more_context("first of 3 attempts"))
        Upstream ConnectRefused context: first of 3 attempts cause: context: to 10.0.0.1:80 cause: ConnectionRefusedError: [Errno 111] Connection refused

    Source: pingora-error/src/lib.rs.
    """

    etype: ErrorKind
    esource: ErrorSource
    retry: RetryType
    context: str

    def __init__(
        self,
        etype: ErrorKind,
        context: str = "",
        *,
        source: ErrorSource = ErrorSource.UNSET,
        cause: BaseException | None = None,
        retry: RetryType | None = None,
    ) -> None:
        super().__init__(etype, context)
        self.etype = etype
        self.esource = source
        self.context = context
        if cause is not None:
            self.__cause__ = cause
        if retry is not None:
            self.retry = retry
        elif isinstance(cause, Error):
            self.retry = cause.retry
        else:
            self.retry = RetryType.NO_RETRY

    # ------------------------------------------------------------------ constructors

    @classmethod
    def up(
        cls,
        etype: ErrorKind,
        context: str = "",
        *,
        cause: BaseException | None = None,
        retry: RetryType | None = None,
    ) -> Self:
        """Make an error that the upstream side caused.

        Args:
            etype: What failed.
            context: What was going on.
            cause: The failure behind this one.
            retry: The retry decision; None as in the constructor.

        Returns:
            The error, not raised.
        """
        return cls(etype, context, source=ErrorSource.UPSTREAM, cause=cause, retry=retry)

    @classmethod
    def down(
        cls,
        etype: ErrorKind,
        context: str = "",
        *,
        cause: BaseException | None = None,
        retry: RetryType | None = None,
    ) -> Self:
        """Make an error that the downstream side caused.

        Args:
            etype: What failed.
            context: What was going on.
            cause: The failure behind this one.
            retry: The retry decision; None as in the constructor.

        Returns:
            The error, not raised.
        """
        return cls(etype, context, source=ErrorSource.DOWNSTREAM, cause=cause, retry=retry)

    @classmethod
    def internal(
        cls,
        etype: ErrorKind,
        context: str = "",
        *,
        cause: BaseException | None = None,
        retry: RetryType | None = None,
    ) -> Self:
        """Make an error that this process caused.

        Args:
            etype: What failed.
            context: What was going on.
            cause: The failure behind this one.
            retry: The retry decision; None as in the constructor.

        Returns:
            The error, not raised.
        """
        return cls(etype, context, source=ErrorSource.INTERNAL, cause=cause, retry=retry)

    # ------------------------------------------------------------------------ source

    def as_up(self) -> Self:
        """Blame the upstream side, in place.

        Returns:
            This error, so that it can be raised in the same line.
        """
        self.esource = ErrorSource.UPSTREAM
        return self

    def as_down(self) -> Self:
        """Blame the downstream side, in place.

        Returns:
            This error, so that it can be raised in the same line.
        """
        self.esource = ErrorSource.DOWNSTREAM
        return self

    def as_in(self) -> Self:
        """Blame this process, in place.

        Returns:
            This error, so that it can be raised in the same line.
        """
        self.esource = ErrorSource.INTERNAL
        return self

    # ------------------------------------------------------------------------- retry

    @property
    def should_retry(self) -> bool:
        """Whether another attempt makes sense; an undecided ``REUSED_ONLY`` counts as no."""
        return self.retry is RetryType.RETRY

    def set_retry(self, retry: bool) -> None:  # noqa: FBT001  # Pingora's signature
        """Decide whether another attempt makes sense.

        Args:
            retry: True if it does.
        """
        self.retry = RetryType.RETRY if retry else RetryType.NO_RETRY

    def decide_reuse(self, reused: bool) -> None:  # noqa: FBT001  # Pingora's signature
        """Settle an undecided ``REUSED_ONLY``; leave a decision that was made alone.

        Args:
            reused: True if the connection that failed had been used before.
        """
        if self.retry is RetryType.REUSED_ONLY:
            self.set_retry(reused)

    # ------------------------------------------------------------------------- chain

    @property
    def cause(self) -> BaseException | None:
        """The failure behind this one: ``__cause__`` by a name that reads."""
        return self.__cause__

    @cause.setter
    def cause(self, cause: BaseException | None) -> None:
        self.__cause__ = cause

    def more_context(self, context: str) -> Error:
        """Wrap this error in one of the same type, source and retry decision.

        Args:
            context: What the outer layer was doing.

        Returns:
            The outer error, with this one as its cause.
        """
        return Error(self.etype, context, source=self.esource, cause=self, retry=self.retry)

    @property
    def root_etype(self) -> ErrorKind:
        """The type of the innermost ``Error`` of the chain."""
        etype = self.etype
        for hop in self._chain():
            etype = hop.etype
        return etype

    @property
    def root_cause(self) -> BaseException:
        """What it all began with: the first foreign exception, or else the innermost ``Error``."""
        last: Error = self
        for hop in self._chain():
            last = hop
        cause = last.__cause__
        return last if cause is None or isinstance(cause, Error) else cause

    def _chain(self) -> Iterator[Error]:
        """Walk from this error inwards, through ``Error`` links only.

        Yields:
            Each error once, this one first; a cycle of causes ends the walk.
        """
        seen: set[int] = set()
        hop: BaseException | None = self
        while isinstance(hop, Error) and id(hop) not in seen:
            seen.add(id(hop))
            yield hop
            hop = hop.__cause__

    def __str__(self) -> str:
        hops: list[str] = []
        outer: Error | None = None
        for hop in self._chain():
            # A hop that has nothing of its own to say is left out.
            if text := hop._own_text(outer):  # noqa: SLF001  # another object of this class
                hops.append(text)
            outer = hop
        root = self.root_cause
        if not isinstance(root, Error):
            hops.append(_describe(root))
        return _printable(" cause: ".join(hops))

    def _own_text(self, outer: Error | None) -> str:
        parts: list[str] = []
        if self.esource is not ErrorSource.UNSET and (
            outer is None or outer.esource is not self.esource
        ):
            parts.append(self.esource.value)
        if outer is None or outer.etype != self.etype:
            parts.append(str(self.etype))
        if self.context:
            parts.append(f"context: {self.context}")
        return " ".join(parts)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}>"


def _describe(cause: BaseException) -> str:
    text = str(cause)
    name = type(cause).__name__
    # Many exceptions have no text of their own, TimeoutError above all.
    return f"{name}: {text}" if text else name


def _printable(text: str) -> str:
    # A context may hold what a peer sent; that must not begin a new line of the log.
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
