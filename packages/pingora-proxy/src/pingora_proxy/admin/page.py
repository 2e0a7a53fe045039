"""The page of the dashboard: put together once, with the policy that lets nothing else run in it."""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib import resources
from typing import NamedTuple

__all__ = ["Page", "load_page"]

_STYLES = ("style.css",)
_SCRIPTS = ("numbers.js", "plot.js", "tables.js", "asking.js", "dashboard.js")


class Page(NamedTuple):
    """The page.

    Attributes:
        body: The whole document; it refers to nothing outside.
        policy: Value for ``Content-Security-Policy``: its own style and script, by their hashes,
            and requests to where it came from; no frames, no forms, nothing else.
    """

    body: bytes
    policy: str


@cache
def load_page() -> Page:
    """Put the page together.

    Returns:
        It, the same one each time.
    """
    folder = resources.files("pingora_proxy.admin") / "page"
    style = "\n".join((folder / name).read_text(encoding="utf-8") for name in _STYLES)
    script = "\n".join((folder / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    # One scope, not the global one, and strict.
    script = f'"use strict";\n(() => {{\n{script}\n}})();\n'
    document = (folder / "page.html").read_text(encoding="utf-8")
    document = document.replace("/* style */", style).replace("/* script */", script)
    policy = "; ".join((
        "default-src 'none'",
        f"script-src '{_hash(script)}'",
        f"style-src '{_hash(style)}'",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ))  # fmt: skip
    return Page(document.encode(), policy)


def _hash(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"
