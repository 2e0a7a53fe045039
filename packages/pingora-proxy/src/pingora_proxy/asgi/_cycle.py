"""What an HTTP exchange and a WebSocket with an application have in common: how they end.

Theory of operation. The application runs in a task of its own, so that nothing that it does to its
task or its context hurts the connection. The connection waits until the exchange is `over`: its
response is complete (the application may go on, with work in the background), or the application has
ended, or it was cancelled at a deadline and heeds not even that. Until then the connection is not let
go, even if its client is: how much runs for a client is bounded by its connections and streams.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

from pingora_core.runtime.timers import Deadline, get_timers
from pingora_error import Error, ErrorSource, ErrorType, HTTPStatus
from pingora_proxy.asgi._errors import ClientDisconnectedError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from pingora_core.protocols.http.server import ServerSession
    from pingora_proxy.asgi.options import AsgiOptions
    from pingora_proxy.asgi.types import Message

__all__ = ["STOPPING", "Cycle"]

#: What is told to those whose stream the server ends.
STOPPING: Final = "server is shutting down"
# Seconds that an application may take to end once it was cancelled.
_CANCEL_TIME: Final = 1.0


class Cycle(ABC):
    """One exchange.

    Args:
        session: The client's side.
        options: How applications are run.

    Attributes:
        error: Why the exchange has failed, where the application is not to blame, or has not
            answered in time; None if it has not.
        is_cancelling: Whether the application was cancelled at a deadline.
        is_complete: Whether the response is complete, or the WebSocket over, for the application.
        is_gone: Whether the client has gone, or what it sends makes no sense any more.
        is_late: Whether the application was cancelled because it did not answer in time.
        is_stopped: Whether the server has ended the exchange because it stops.
        over: Done when the connection need not wait any longer.
    """

    def __init__(self, session: ServerSession, options: AsgiOptions) -> None:
        loop = asyncio.get_running_loop()
        self.over: asyncio.Future[None] = loop.create_future()
        self.error: Error | None = None
        self.is_cancelling: bool = False
        self.is_complete: bool = False
        self.is_gone: bool = False
        self.is_late: bool = False
        self.is_stopped: bool = False
        self._session = session
        self._options = options
        self._ended: asyncio.Future[None] = loop.create_future()
        self._has_begun = False
        self._is_answer_due = True
        self._task: asyncio.Task[None] | None = None
        # Who sends in several tasks waits in turn: there is one buffer to be drained.
        self._sending = asyncio.Lock()
        self._deadline = Deadline(get_timers(), self._expired)
        self._unsubscribe: Callable[[], None] | None = None

    @abstractmethod
    async def receive(self) -> Message:
        """Give the application what comes.

        Returns:
            The message.
        """

    @abstractmethod
    async def send(self, message: Message) -> None:
        """Take what the application sends.

        Args:
            message: The message.

        Raises:
            ClientDisconnectedError: If nobody is there any more.
            Error: If the message is not one of those that may be sent now.
        """

    def begin(self, task: asyncio.Task[None]) -> None:
        """Begin to watch.

        Args:
            task: Runs the application.
        """
        self._task = task
        task.add_done_callback(self._application_ended)
        if self._session.abort_on_close:
            self._session.watch_disconnect(self._client_left)
        self._wait_for_answer()

    async def close(self) -> None:
        """Let go of the connection."""
        self._deadline.cancel()
        if self._unsubscribe is not None:
            self._unsubscribe()
        self._session.watch_disconnect(None)
        self.is_gone = self.is_gone or not self.is_complete
        self._end()

    # -------------------------------------------------------------- deadlines

    def _wait_for_answer(self) -> None:
        timeout = self._options.response_timeout
        if timeout is not None and self._is_answer_due:
            self._deadline.set(timeout)

    def _wait_for_client(self) -> None:
        # It has deadlines of its own.
        if self._is_answer_due:
            self._deadline.clear()

    def _answer_begins(self) -> None:
        self._wait_for_client()
        self._has_begun = True
        self._is_answer_due = False

    def _expired(self) -> None:
        if self.is_cancelling:
            _finish(self.over)
            return
        if self.error is None and not (self._has_begun or self.is_stopped):
            self.is_late = True
            self.error = Error.internal(
                HTTPStatus(504),
                f"the application has not answered in {self._options.response_timeout} s",
            )
        self.is_cancelling = True
        self._cancel_within(_CANCEL_TIME)
        if self._task is not None:
            self._task.cancel()

    def _cancel_within(self, seconds: float) -> None:
        # From here on the deadline is for its end.
        self._is_answer_due = False
        self._deadline.set(seconds)

    def _stop_within(self, seconds: float) -> None:
        self.is_stopped = True
        self._end()
        if not self.is_cancelling:
            self._cancel_within(seconds)

    # ----------------------------------------------------------------- ending

    def _application_ended(self, task: asyncio.Task[None]) -> None:  # noqa: ARG002 - a callback's
        _finish(self.over)

    def _end(self) -> None:
        # Wakes whoever waits in `receive`.
        _finish(self._ended)

    def _client_left(self) -> None:
        self._fail(Error.down(ErrorType.CONNECTION_CLOSED, "the client has gone"))

    def _fail(self, error: Error) -> None:
        # There is nobody to talk to any more.
        if self.is_complete or self.is_gone:
            return
        self.is_gone = True
        if self.error is None:
            self.error = error
        if self._has_begun and not self.is_cancelling:
            self._cancel_within(self._options.disconnect_timeout)
        self._end()

    async def _write(self, writing: Coroutine[object, object, None]) -> None:
        try:
            async with self._sending:
                await writing
        except Error as error:
            if error.esource is not ErrorSource.DOWNSTREAM:
                raise
            self._fail(error)
            raise ClientDisconnectedError(str(error)) from error
        finally:
            writing.close()  # cancelled while others sent, it has not begun


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
