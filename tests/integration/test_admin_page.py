"""The page of the dashboard in a real browser: what it shows, what it does, who can read it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from devtool.nodejs import AXE
from pingora_load_balancing import Backend
from pingora_proxy.admin import AdminToken
from pingora_proxy.admin.page import load_page
from tests.support.admin import TOKEN, AdminRig, running
from tests.support.browser import Browser
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.browser import Tab

_BAD = {"serious", "critical"}
_SIGNED_IN = "!document.getElementById('board').hidden"


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """A browser of the test's own."""
    async with Browser() as started:
        yield started


async def _violations(tab: Tab) -> list[str]:
    if not AXE.exists():
        message = "axe-core is not installed; ./tools/dev deps gets it where npm is"
        if os.environ.get("CI") == "true" and shutil.which("npm") is not None:
            pytest.fail(message)
        pytest.skip(message)
    await tab.run(AXE.read_text(encoding="utf-8"))
    found = await tab.run("axe.run().then(r => JSON.stringify(r.violations))")
    return [
        f"{each['id']}: {each['nodes'][0]['html']} {each['nodes'][0]['failureSummary']}"
        for each in json.loads(str(found))
        if each["impact"] in _BAD
    ]


async def _text(tab: Tab, name: str) -> str:
    return str(await tab.run(f"document.getElementById('{name}').innerText"))


async def _look_twice(tab: Tab, rig: AdminRig) -> None:
    # Rates are differences: there must have been requests between two answers.
    await tab.until(_SIGNED_IN)
    rig.serve(90)
    rig.serve(10, status=500, seconds=0.3)
    await tab.until("/\\d/.test(document.querySelector('.tile .number').innerText)")


def test_the_page_is_small_and_alone() -> None:
    """It is below 150 KiB and names nothing outside; nothing else may run in it."""
    page = load_page()
    text = page.body.decode()

    assert len(page.body) < 150 * 1024
    assert "http://www.w3.org/2000/svg" in text  # a name, not an address that is asked for
    rest = text.replace("http://www.w3.org/2000/svg", "").replace("https://example.com", "")
    assert "//" not in "".join(part for part in rest.split() if "src=" in part or "href=" in part)
    assert "http:" not in rest
    assert "https:" not in rest
    assert "onclick=" not in text
    assert "style=" not in text
    assert "'unsafe-" not in page.policy
    assert page.policy.startswith("default-src 'none'; script-src 'sha256-")


async def test_a_token_opens_the_numbers(browser: Browser) -> None:
    """A wrong token is told as such; the right one stays in the tab's own storage only."""
    rig = AdminRig()
    async with (
        running(rig.service(token=AdminToken(value=TOKEN))) as address,
        browser.tab() as tab,
    ):
        await tab.go(f"http://{address}/?every=0.2")
        await tab.until("!document.getElementById('sign-in').hidden")
        assert await tab.run("document.activeElement.id") == "token"
        assert await _violations(tab) == []
        await tab.fill("#token", "wrong")
        await tab.click("#sign-in-form button")
        await tab.until("document.getElementById('token-error').innerText")
        await tab.fill("#token", TOKEN)
        await tab.click("#sign-in-form button")
        await _look_twice(tab, rig)

        assert await tab.run("sessionStorage.length") == 1
        assert await tab.run("document.cookie + localStorage.length") == "0"
        assert {url.split("/")[2] for url in tab.requests} == {address}
        assert [each for each in tab.faults if "401" not in each] == []


@pytest.mark.parametrize(
    ("width", "scheme"), [(360, "light"), (360, "dark"), (1280, "light"), (3840, "dark")]
)
async def test_the_page_can_be_read(browser: Browser, width: int, scheme: str) -> None:
    """No serious accessibility issue, no fault, nothing wider than the window, at any size."""
    rig = AdminRig()
    rig.pool.set_healthy(rig.pool.current[1].addr, False)
    async with (
        running(rig.service()) as address,
        browser.tab(width=width, height=800, scheme=scheme) as tab,
    ):
        await tab.go(f"http://{address}/?every=0.2")
        await _look_twice(tab, rig)

        assert await _violations(tab) == []
        assert await tab.run("document.documentElement.scrollWidth") == width
        assert tab.faults == []
        ground = str(await tab.run("getComputedStyle(document.body).backgroundColor"))
        assert ground == ("rgb(243, 245, 248)" if scheme == "light" else "rgb(12, 16, 22)")


async def test_numbers_come_with_their_units(browser: Browser) -> None:
    """Rates, shares and latencies are worked out from what was counted between two answers."""
    rig = AdminRig()
    async with running(rig.service()) as address, browser.tab() as tab:
        await tab.go(f"http://{address}/?every=0.2")
        await _look_twice(tab, rig)

        tiles = await _text(tab, "tiles")
        assert "/s" in tiles
        assert "10.0%" in tiles
        assert "p99" in tiles
        assert "ms" in tiles
        told = str(
            await tab.run("document.querySelector('.canvas').getAttribute('aria-valuetext')")
        )
        assert told.startswith("now: all ")
        assert await tab.run("document.querySelectorAll('path.curve').length >= 3")


async def test_a_backend_is_drained_with_the_keyboard(browser: Browser) -> None:
    """Its button works by keyboard, says what it does, and keeps the focus in its row."""
    rig = AdminRig()
    async with running(rig.service()) as address, browser.tab() as tab:
        await tab.go(f"http://{address}/?every=0.2")
        await tab.until(_SIGNED_IN)
        button = "document.querySelector('[aria-label=\"Drain 127.0.0.1:8001\"]')"
        await tab.run(f"{button}.focus()")
        await tab.press("Enter")
        await eventually(lambda: not rig.pool.current.states[0].is_enabled)
        await tab.until("document.querySelector('[aria-label=\"Enable 127.0.0.1:8001\"]')")
        assert "Drained" in await _text(tab, "upstreams")
        await tab.until("document.getElementById('live').textContent.includes('done')")
        focused = await tab.run("document.activeElement.getAttribute('aria-label')")
        assert focused == "Enable 127.0.0.1:8001"

        # The last one that is ready is asked for twice.
        await tab.click('[aria-label="Disable 127.0.0.1:8002"]')
        await tab.until("document.querySelector('button.sure')")
        assert rig.pool.current.states[1].is_enabled
        await tab.click("button.sure")
        await eventually(lambda: not rig.pool.current.states[1].is_enabled)


async def test_a_moment_is_read_out(browser: Browser) -> None:
    """By keyboard as with the pointer, in all plots at once; Escape goes back to now."""
    rig = AdminRig()
    async with running(rig.service()) as address, browser.tab() as tab:
        await tab.go(f"http://{address}/?every=0.2")
        await _look_twice(tab, rig)
        await tab.until(
            "document.querySelector('path.curve').getAttribute('d').split('L').length > 3"
        )
        canvas = "document.querySelectorAll('.canvas')"
        await tab.run(f"{canvas}[1].focus()")
        await tab.press("ArrowLeft")
        for at in (0, 1, 2):
            assert "ago: " in str(await tab.run(f"{canvas}[{at}].getAttribute('aria-valuetext')"))
        dot = "document.querySelector('circle.dot').getAttribute('visibility')"
        assert await tab.run(dot) == "visible"
        await tab.press("Escape")
        assert "now: " in str(await tab.run(f"{canvas}[0].getAttribute('aria-valuetext')"))
        assert await tab.run(dot) == "hidden"


async def test_many_backends(browser: Browser) -> None:
    """Those in trouble come first, and only some are listed until all are asked for."""
    rig = AdminRig()
    rig.pool.replace([Backend(f"10.0.0.{number}:80") for number in range(200)])
    rig.pool.set_healthy(rig.pool.current[150].addr, False)
    rows = "document.querySelectorAll('#upstreams tbody tr')"
    async with running(rig.service()) as address, browser.tab() as tab:
        await tab.go(f"http://{address}/?every=0.2")
        await tab.until(_SIGNED_IN)
        assert await tab.run(f"{rows}.length") == 10
        assert "10.0.0.150:80" in str(await tab.run(f"{rows}[0].innerText"))
        assert "Unhealthy" in str(await tab.run(f"{rows}[0].innerText"))
        assert await _text(tab, "upstreams-sum") == "199 of 200 ready, 190 not listed"
        await tab.click("#all-upstreams")
        assert await tab.run(f"{rows}.length") == 200
        assert await _violations(tab) == []


async def test_what_happens_is_kept(browser: Browser) -> None:
    """Whoever looks away reads later which backend went and when."""
    rig = AdminRig()
    async with running(rig.service()) as address, browser.tab() as tab:
        await tab.go(f"http://{address}/?every=0.2")
        await tab.until(_SIGNED_IN)
        rig.pool.set_healthy(rig.pool.current[0].addr, False)
        await tab.until("document.querySelector('#events li')")
        assert "127.0.0.1:8001 is unhealthy" in await _text(tab, "events")
        await tab.until("document.querySelectorAll('.strip-plot .bar.bad').length === 1")


async def test_a_purge_is_told(browser: Browser) -> None:
    """A form purges by URL, softly if wanted; what is refused is told, too."""
    rig = AdminRig()
    async with running(rig.service()) as address, browser.tab() as tab:
        await tab.go(f"http://{address}/?every=0.2")
        await tab.until(_SIGNED_IN)
        await tab.fill("#purge-what", "https://example.com/a")
        await tab.click("#purge-soft")
        await tab.click("#purge button[type=submit]")
        await tab.until("document.getElementById('banner').innerText.includes('1 found')")
        assert rig.cache.purged == [("https://example.com/a", True)]
        await tab.run("document.getElementById('purge-what').value = 'nonsense'")
        await tab.click("#purge button[type=submit]")
        await tab.until("document.getElementById('banner').innerText.includes('absolute')")


async def test_a_server_that_is_gone_is_told(browser: Browser) -> None:
    """What is shown is marked as old, and the page says that it tries again; then it goes on."""
    rig = AdminRig()
    async with browser.tab() as tab:
        async with running(rig.service()) as address:
            await tab.go(f"http://{address}/?every=0.2")
            await tab.until(_SIGNED_IN)
        await tab.until("document.getElementById('status-text').innerText === 'Disconnected'")
        assert "Trying again" in await _text(tab, "banner")
        assert await tab.run("document.getElementById('board').classList.contains('stale')")
        async with running(rig.service(listen=address)):
            await asyncio.sleep(0)
            await tab.until(
                "document.getElementById('status-text').innerText === 'Ready'", timeout=20
            )
            assert not await tab.run("document.getElementById('board').classList.contains('stale')")


async def test_a_page_without_anything_to_show_says_so(browser: Browser) -> None:
    """Each part that the program has not filled tells how to."""
    service = AdminRig().service(metrics=None, backends={}, caches={}, proxies={})
    async with running(service) as address, browser.tab() as tab:
        await tab.go(f"http://{address}/?every=0.2")
        await tab.until(_SIGNED_IN)
        text = str(await tab.run("document.body.innerText"))
        for part in ("metrics", "backends", "caches", "proxies"):
            assert f"AdminService its {part}" in text
        assert await _violations(tab) == []


async def test_a_theme_is_chosen(browser: Browser) -> None:
    """The button goes from the system's theme to light and to dark, and the choice stays."""
    async with running(AdminRig().service()) as address, browser.tab(scheme="light") as tab:
        for _ in range(2):
            await tab.go(f"http://{address}/?every=0.2")
            await tab.until(_SIGNED_IN)
            if await tab.run("localStorage.length") == 0:
                await tab.click("#theme")
                await tab.click("#theme")
            assert await _text(tab, "theme") == "Theme: dark"
            ground = "getComputedStyle(document.body).backgroundColor"
            assert await tab.run(ground) == "rgb(12, 16, 22)"
