"""The page of the dashboard over minutes and hours, which pass at once here."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pingora_core.metrics import Registry
from pingora_proxy.admin import app
from tests.support.admin import AdminRig, running
from tests.support.browser import Browser
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pingora_core.metrics.snapshot import Families
    from pingora_proxy.admin import AdminService
    from tests.support.browser import Tab

_CLOCK = """
(() => {
  const real = performance.now.bind(performance);
  let ahead = 0;
  performance.now = () => real() + ahead;
  window.skip = (seconds) => { ahead += 1000 * seconds; };
})();
"""
_ASK_NOW = """
new Promise((resolve) => {
  const seen = document.getElementById("foot").dataset;
  const pause = document.getElementById("pause");
  pause.click();
  pause.click();
  const before = performance.getEntriesByType("resource").length;
  const wait = () => performance.getEntriesByType("resource").length > before ? setTimeout(resolve, 10) : setTimeout(wait, 5);
  wait();
})
"""
_RATE = "document.querySelector('.tile .number').innerText"


class _Time:
    # Moves the clocks of server and page by the same.
    def __init__(self, service: AdminService, tab: Tab) -> None:
        self.now = 1000.0
        self._tab = tab
        service._operations._clock = lambda: self.now

    async def pass_by(self, seconds: float) -> None:
        self.now += seconds
        await self._tab.run(f"skip({seconds})")
        await self._tab.run(_ASK_NOW)


@pytest.fixture(autouse=True)
def _always_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "FRESH", 0.0)


async def _open(tab: Tab, address: str, every: float) -> None:
    await tab.send("Page.addScriptToEvaluateOnNewDocument", source=_CLOCK)
    await tab.go(f"http://{address}/?every={every}")
    await tab.until("!document.getElementById('board').hidden")


async def test_a_page_that_asks_seldom() -> None:
    """Once a minute is enough for rates and percentiles, and the points hang together."""
    rig = AdminRig()
    service = rig.service()
    async with Browser() as browser, running(service) as address, browser.tab() as tab:
        time = _Time(service, tab)
        await _open(tab, address, 60)
        for _ in range(3):
            rig.serve(120)
            await time.pass_by(60)
        assert await tab.run(_RATE) == "2/s"
        assert await tab.run("document.querySelector('path.curve').getAttribute('d').includes('L')")


async def test_a_page_that_is_open_for_long() -> None:
    """It keeps the last five minutes, and nothing of what came before."""
    rig = AdminRig()
    service = rig.service()
    async with Browser() as browser, running(service) as address, browser.tab() as tab:
        time = _Time(service, tab)
        await _open(tab, address, 30)
        for _ in range(30):
            rig.serve(30)
            await time.pass_by(30)
        path = "document.querySelector('path.curve').getAttribute('d')"
        assert await tab.run(f"{path}.split('L').length <= 11")
        assert await tab.run("document.querySelectorAll('.strip-plot .bar').length") == 2
        assert tab.faults == []


async def test_who_counts_anew_leaves_a_gap() -> None:
    """After a restart numbers begin at nothing: there is no rate below zero, and no peak."""
    rig = AdminRig()

    class Numbers:
        registry = rig.registry

        def collect(self) -> Families:
            return self.registry.collect()

    numbers = Numbers()
    service = rig.service(metrics=numbers)
    async with Browser() as browser, running(service) as address, browser.tab() as tab:
        time = _Time(service, tab)
        await _open(tab, address, 10)
        rig.serve(1000)
        await time.pass_by(10)
        rig.serve(1000)
        await time.pass_by(10)
        assert await tab.run(_RATE) == "100/s"
        numbers.registry = AdminRig().registry
        await time.pass_by(10)
        assert await tab.run(_RATE) == "\u2013"
        await time.pass_by(10)
        assert await tab.run(_RATE) == "0/s"
        assert "peak 100" in str(await tab.run("document.querySelector('.tile').innerText"))
        path = "document.querySelector('path.curve').getAttribute('d')"
        assert await tab.run(f"{path}.split('M').length") == 3
        numbers.registry = Registry()
        await time.pass_by(10)
        assert not await tab.run("document.getElementById('no-traffic').hidden")
        assert tab.faults == []


async def test_what_was_not_asked_for_is_a_gap() -> None:
    """A page that was in the background for an hour draws no line across it."""
    rig = AdminRig()
    service = rig.service()
    async with Browser() as browser, running(service) as address, browser.tab() as tab:
        time = _Time(service, tab)
        await _open(tab, address, 10)
        for seconds in (10, 10, 100, 10):
            rig.serve(100)
            await time.pass_by(seconds)
        path = "document.querySelector('path.curve').getAttribute('d')"
        assert await tab.run(f"{path}.split('M').length") == 3


async def test_a_page_in_the_background_asks_for_nothing() -> None:
    """It asks at once when somebody looks at it again."""
    hide = "isAway = {}; document.dispatchEvent(new Event('visibilitychange'))"
    source = (
        "var isAway = false; Object.defineProperty(document, 'hidden', {get: () => window.isAway})"
    )
    async with (
        Browser() as browser,
        running(AdminRig().service()) as address,
        browser.tab() as tab,
    ):
        await tab.send("Page.addScriptToEvaluateOnNewDocument", source=source)
        await tab.go(f"http://{address}/?every=0.2")
        await tab.until("!document.getElementById('board').hidden")
        await tab.run(hide.format("true"))
        await asyncio.sleep(0.05)
        asked = len(tab.requests)
        for _ in range(10):
            await asyncio.sleep(0.05)
        assert len(tab.requests) == asked
        await tab.run(hide.format("false"))
        await eventually(lambda: len(tab.requests) > asked)
