"""The types of the keys: what each value may be, and how that is told to an operator."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, TypeAlias

from msgspec import Meta

__all__ = [
    "UMASK_ALLOWED",
    "Affinity",
    "Bytes",
    "Count",
    "CountOrZero",
    "Engine",
    "Flag",
    "Http2Engine",
    "IPv4List",
    "IPv6List",
    "LogLevel",
    "Seconds",
    "SomeSeconds",
    "Text",
    "Umask",
    "Workers",
    "parse_umask",
    "show_umask",
]

Flag: TypeAlias = Annotated[bool, Meta(description="true or false")]
Text: TypeAlias = Annotated[
    str, Meta(min_length=1, pattern=r"^[^\x00]*$", description="text, not empty")
]
Count: TypeAlias = Annotated[
    int, Meta(ge=1, le=2**31 - 1, description="a whole number of at least 1")
]
CountOrZero: TypeAlias = Annotated[
    int, Meta(ge=0, le=2**31 - 1, description="a whole number of at least 0")
]
Bytes: TypeAlias = Annotated[
    int, Meta(ge=1, le=2**63 - 1, description="bytes, a whole number of at least 1")
]
Workers: TypeAlias = Annotated[
    Annotated[int, Meta(ge=1, le=1024)] | Literal["auto"],
    Meta(description="a whole number from 1 to 1024, or auto"),
]
# A year is as good as for ever, and keeps infinity out of the loop's clock arithmetic.
Seconds: TypeAlias = Annotated[
    float, Meta(ge=0, le=31_536_000, description="seconds, a number from 0 to 31536000")
]
SomeSeconds: TypeAlias = Annotated[
    float, Meta(gt=0, le=31_536_000, description="seconds, a number above 0, up to 31536000")
]
Engine: TypeAlias = Annotated[Literal["httptools", "h11"], Meta(description="httptools or h11")]
Http2Engine: TypeAlias = Annotated[Literal["h2", "jh2"], Meta(description="h2 or jh2")]
LogLevel: TypeAlias = Annotated[
    Literal["debug", "info", "warning", "error", "critical"],
    Meta(description="debug, info, warning, error or critical"),
]
IPv4List: TypeAlias = Annotated[tuple[str, ...], Meta(description="a list of IPv4 addresses")]
IPv6List: TypeAlias = Annotated[tuple[str, ...], Meta(description="a list of IPv6 addresses")]
_Cpu: TypeAlias = Annotated[int, Meta(ge=0, le=2**16 - 1)]
_Cpus: TypeAlias = Annotated[tuple[_Cpu, ...], Meta(min_length=1)]
Affinity: TypeAlias = Annotated[
    Annotated[tuple[_Cpus, ...], Meta(min_length=1)] | Literal["auto"],
    Meta(description="auto, or a list with a list of CPU numbers for each worker"),
]
UMASK_ALLOWED: Final = "a mode in octal with a leading zero, from 0 to 0777, such as 0027 or 0o027"
Umask: TypeAlias = Annotated[int, Meta(ge=0, le=0o777, description=UMASK_ALLOWED)]

_UMASK_TEXT: Final = re.compile(r"0|0o?0*([0-7]{1,3})")


def parse_umask(text: str) -> int | None:
    """Read a mode as operators write it.

    Args:
        text: Octal with a leading zero, as C and YAML 1.1 write it (``0027``), or as Python and
            YAML 1.2 do (``0o027``). Without one it is refused: who writes 27 never means 033.

    Returns:
        The mode; None if the text is none.
    """
    found = _UMASK_TEXT.fullmatch(text)
    return None if found is None else int(found[1] or "0", 8)


def show_umask(mode: int) -> str:
    """Write a mode in the way that `parse_umask` reads.

    Args:
        mode: 0 to 0o777.

    Returns:
        Text such as ``0o027``.
    """
    return f"0o{mode:03o}"
