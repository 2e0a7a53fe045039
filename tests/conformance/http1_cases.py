"""Third parties' HTTP/1 test data, read where it lies.

The data is no part of the repository. It is looked for in the directory that the environment
variable ``PINGORA_TEST_DATA`` names, else beside the repository.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conformance.http1_reading import Kind, Verdict

_REPOSITORY: Final = Path(__file__).resolve().parents[2]
DATA: Final = Path(os.environ.get("PINGORA_TEST_DATA") or _REPOSITORY.parent / "shared" / "data")

_ESCAPE = re.compile(rb"\\(x[0-9A-Fa-f]{2}|[rnt0f])")
_ESCAPES: Final = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0", b"f": b"\f"}
_LINE_END = re.compile(rb"\r\n|\r|\n")
_MARKDOWN = re.compile(
    rb"^(?P<level>#+) (?P<title>[^\n]*)$"
    rb"|<!-- *meta=(?P<meta>\{[^\n]*?\}) *-->"
    rb"|^```(?P<block>http|log)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_ERROR = re.compile(rb"error code=(\d+)")
# Pausing, and leaving HTTP for an upgrade, are no refusals.
_PAUSES: Final = {b"21", b"22"}


@dataclass(frozen=True, slots=True)
class Case:
    """One case of a corpus: bytes of one connection, and what its authors think of them."""

    corpus: str
    name: str
    kind: Kind
    data: bytes
    expected: Verdict


def cases() -> Iterator[Case]:
    """Yield the cases of all corpora."""
    yield from _gunicorn("valid", "accept")
    yield from _gunicorn("invalid", "refuse")
    yield from _llhttp("request")
    yield from _llhttp("response")


def _unescape(text: bytes) -> bytes:
    def byte(match: re.Match[bytes]) -> bytes:
        code = match[1]
        return _ESCAPES[code] if len(code) == 1 else bytes([int(code[1:], 16)])

    return _ESCAPE.sub(byte, text)


def _gunicorn(group: str, expected: Verdict) -> Iterator[Case]:
    for path in sorted((DATA / "http1-gunicorn" / group).glob("*.http")):
        # Line ends are written out; the real ones only make the files readable.
        data = _unescape(path.read_bytes().replace(b"\n", b""))
        yield Case("gunicorn", f"{group}/{path.stem}", "request", data, expected)


def _llhttp(kind: Kind) -> Iterator[Case]:
    seen: Counter[str] = Counter()
    for path in sorted((DATA / "llhttp" / kind).glob("*.md")):
        titles: dict[int, bytes] = {}
        lenient = False
        data = b""
        for match in _MARKDOWN.finditer(path.read_bytes()):
            if match["level"]:
                level = len(match["level"])
                titles = {at: title for at, title in titles.items() if at < level}
                titles[level] = match["title"]
            elif match["meta"]:
                lenient = "lenient" in json.loads(match["meta"])["type"]
            elif match["block"] == b"http":
                text = match["text"].removesuffix(b"\n")
                data = _unescape(_LINE_END.sub(b"\r\n", re.sub(rb"\\\n", b"", text)))
            else:
                title = b" / ".join(titles.values()).decode().replace("`", "").replace("|", "/")
                name = f"{kind}/{path.stem}: {title}"
                seen[name] += 1
                if seen[name] > 1:
                    name += f" #{seen[name]}"
                yield Case("llhttp", name, kind, data, _expected(match["text"], lenient=lenient))


def _expected(log: bytes, *, lenient: bool) -> Verdict:
    if lenient:
        return "refuse"  # what takes a leniency to be read is not strict
    error = _ERROR.search(log)
    if error is not None and error[1] not in _PAUSES:
        return "refuse"
    if error is not None or log.count(b"message begin") == log.count(b"message complete"):
        return "accept"
    return "incomplete"
