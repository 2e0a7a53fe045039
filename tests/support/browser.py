"""Chromium without a window, driven over its DevTools protocol.

One process for as many pages as a test opens; each page has storage of its own. What a page writes to its
console, what it fails to load and what its policy blocks is kept: a page with any of these has a fault.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import shutil
import signal
import tempfile
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Self

from websockets.asyncio.client import connect

from tests.support.nginx import require_program

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from websockets.asyncio.client import ClientConnection

__all__ = ["Browser", "Tab"]

_LIMIT = 60.0
_ARGUMENTS = (
    "--headless", "--no-sandbox", "--remote-debugging-port=0", "--disable-gpu", "--hide-scrollbars",
    "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-default-apps", "--disable-extensions", "--disable-sync", "--mute-audio",
    "--disable-dev-shm-usage", "--force-color-profile=srgb",
)  # fmt: skip


class Browser:
    """One Chromium, as an async context manager; killed at the end."""

    def __init__(self) -> None:
        self._program = require_program("chromium-headless-shell")
        self._folder = tempfile.mkdtemp(prefix="browser-")
        self._process: asyncio.subprocess.Process | None = None
        self._connection: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._errors: asyncio.Task[None] | None = None
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, object]]] = {}
        self._tabs: dict[str, Tab] = {}

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def _start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            self._program,
            *_ARGUMENTS,
            f"--user-data-dir={self._folder}",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=os.environ | {"HOME": self._folder},
            # The program is a script that starts the browser: both are ended, as a group.
            start_new_session=True,
        )
        assert self._process.stderr is not None
        async with asyncio.timeout(_LIMIT):
            async for line in self._process.stderr:
                _, found, url = line.decode(errors="replace").partition("DevTools listening on ")
                if found:
                    break
            else:
                msg = f"{self._program} did not start"
                raise AssertionError(msg)
        self._errors = asyncio.create_task(_discard(self._process.stderr))
        self._connection = await connect(url.strip(), max_size=None, proxy=None)
        self._reader = asyncio.create_task(self._read(self._connection))

    async def _stop(self) -> None:
        if self._connection is not None:
            await self._connection.close()
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()
        for task in (self._reader, self._errors):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _read(self, connection: ClientConnection) -> None:
        async for text in connection:
            message = json.loads(text)
            waiter = self._waiting.pop(message.get("id", 0), None)
            if waiter is not None and not waiter.done():
                waiter.set_result(message)
            elif (tab := self._tabs.get(message.get("sessionId", ""))) is not None:
                tab.note(message.get("method", ""), message.get("params", {}))

    async def send(
        self, method: str, session: str | None = None, **params: object
    ) -> dict[str, object]:
        """Send a command.

        Args:
            method: Its name.
            session: Of the page; None for the browser.
            params: Its parameters.

        Returns:
            What came of it.

        Raises:
            AssertionError: If it failed.
        """
        assert self._connection is not None
        number = next(self._numbers)
        message: dict[str, object] = {"id": number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        waiter = self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._connection.send(json.dumps(message))
        async with asyncio.timeout(_LIMIT):
            answer = await waiter
        assert "error" not in answer, f"{method}: {answer['error']}"
        result = answer["result"]
        assert isinstance(result, dict)
        return result

    @asynccontextmanager
    async def tab(
        self, *, width: int = 1280, height: int = 800, scheme: str = "light", scale: float = 1.0
    ) -> AsyncIterator[Tab]:
        """Open a page.

        Args:
            width: Of the window, CSS pixels.
            height: Of the window, CSS pixels.
            scheme: ``light`` or ``dark``, as the system prefers.
            scale: Device pixels for one of CSS.

        Yields:
            The page, blank.
        """
        context = (await self.send("Target.createBrowserContext"))["browserContextId"]
        target = await self.send("Target.createTarget", url="about:blank", browserContextId=context)
        attached = await self.send(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        tab = Tab(self, str(attached["sessionId"]))
        self._tabs[tab.session] = tab
        try:
            for domain in ("Page", "Runtime", "Log", "Network"):
                await tab.send(f"{domain}.enable")
            await tab.send(
                "Emulation.setDeviceMetricsOverride",
                width=width, height=height, deviceScaleFactor=scale, mobile=width < 600,
            )  # fmt: skip
            features = [
                {"name": "prefers-color-scheme", "value": scheme},
                {"name": "prefers-reduced-motion", "value": "reduce"},
            ]
            await tab.send("Emulation.setEmulatedMedia", features=features)
            await tab.send("Emulation.setFocusEmulationEnabled", enabled=True)
            yield tab
        finally:
            del self._tabs[tab.session]
            with suppress(AssertionError, TimeoutError):
                await self.send("Target.disposeBrowserContext", browserContextId=context)


class Tab:
    """One page.

    Args:
        browser: Whose.
        session: What the protocol calls it.

    Attributes:
        session: As given.
        faults: What went wrong in it so far.
        requests: URLs that it asked for.
    """

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self.session = session
        self.faults: list[str] = []
        self.requests: list[str] = []

    def note(self, method: str, params: dict[str, dict[str, object]]) -> None:
        """Take note of an event.

        Args:
            method: Its name.
            params: Its parameters.
        """
        if method == "Log.entryAdded" and params["entry"]["level"] in {"error", "warning"}:
            self.faults.append(str(params["entry"]["text"]))
        elif method == "Runtime.exceptionThrown":
            self.faults.append(json.dumps(params["exceptionDetails"])[:1000])
        elif method == "Network.requestWillBeSent":
            self.requests.append(str(params["request"]["url"]))

    async def send(self, method: str, **params: object) -> dict[str, object]:
        """Send a command to the page.

        Args:
            method: Its name.
            params: Its parameters.

        Returns:
            What came of it.
        """
        return await self._browser.send(method, self.session, **params)

    async def go(self, url: str) -> None:
        """Open an address, and wait until it is parsed.

        Args:
            url: The address.
        """
        answer = await self.send("Page.navigate", url=url)
        assert "errorText" not in answer, answer
        await self.until("document.readyState === 'complete'")

    async def run(self, script: str) -> object:
        """Evaluate an expression.

        Args:
            script: JavaScript; a promise is awaited.

        Returns:
            Its value.

        Raises:
            AssertionError: If it throws.
        """
        answer = await self.send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        result = answer["result"]
        assert isinstance(result, dict)
        value: object = result.get("value")
        return value

    async def until(self, script: str, *, timeout: float = 10.0) -> None:
        """Wait until an expression is true.

        Args:
            script: JavaScript.
            timeout: Seconds.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        while not await self.run(f"Boolean({script})"):
            if asyncio.get_running_loop().time() > deadline:
                text = await self.run("document.body.innerText")
                msg = f"{script} did not come true within {timeout} s: {self.faults}\n{text}"
                raise AssertionError(msg)
            await asyncio.sleep(0.02)

    async def click(self, selector: str) -> None:
        """Click on something.

        Args:
            selector: What.
        """
        await self.run(f"document.querySelector({json.dumps(selector)}).click()")

    async def fill(self, selector: str, text: str) -> None:
        """Type into a field.

        Args:
            selector: Which.
            text: What.
        """
        await self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        await self.send("Input.insertText", text=text)

    async def press(self, key: str) -> None:
        """Press a key and let it go.

        Args:
            key: Its name, such as ``Tab``.
        """
        keys = {"Tab": (9, ""), "Enter": (13, "\r"), "ArrowLeft": (37, ""), "Escape": (27, "")}
        code, text = keys[key]
        for kind in ("keyDown", "keyUp"):
            await self.send(
                "Input.dispatchKeyEvent",
                type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text,
            )  # fmt: skip

    async def screenshot(self, *, whole: bool = False) -> bytes:
        """Take a picture.

        Args:
            whole: Whether of the whole page, or of what is in the window.

        Returns:
            A PNG.
        """
        answer = await self.send(
            "Page.captureScreenshot", format="png", captureBeyondViewport=whole
        )
        return base64.b64decode(str(answer["data"]))


async def _discard(reader: asyncio.StreamReader) -> None:
    while await reader.read(65536):
        pass
