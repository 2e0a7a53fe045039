"""Lists of backends as text: YAML or JSON, read with care, because anybody may have written them.

A list is believed as a whole or not at all. What makes parsers stall or fall over (deep nesting,
aliases that unfold without end, huge texts) is refused before they see it. No I/O.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from typing import TYPE_CHECKING, Annotated, Final, Literal, NoReturn

import msgspec
import yaml

from pingora_load_balancing.backend import Backend
from pingora_load_balancing.discovery.interfaces import Discovered, refuse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pingora_core.upstreams.peer import PeerAddress

__all__ = ["Format", "parse_document"]

Format = Literal["json", "yaml"]

_MAX_DEPTH: Final = 32
# The loader written in C is ten times as fast; wheels have it.
_Loader: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MAX_WEIGHT: Final = 2**31 - 1
_MAX_ADDRESS: Final = 300

_Weight = Annotated[int, msgspec.Meta(ge=0, le=_MAX_WEIGHT)]
_Address = Annotated[str, msgspec.Meta(min_length=1, max_length=_MAX_ADDRESS)]


class _Entry(msgspec.Struct, frozen=True, gc=False):
    address: _Address
    weight: _Weight = 1
    enabled: bool | None = None
    metadata: object = None


class _StrictEntry(_Entry, frozen=True, gc=False, forbid_unknown_fields=True):
    pass


class _Document(msgspec.Struct, frozen=True, gc=False):
    backends: list[_Address | _Entry]


class _StrictDocument(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    backends: list[_Address | _StrictEntry]


def parse_document(
    data: bytes,
    form: Format,
    *,
    max_backends: int,
    metadata_type: type | None = None,
    strict: bool = True,
) -> Discovered:
    """Read a list of backends.

    Args:
        data: The text, UTF-8.
        form: Its format.
        max_backends: Refuse longer lists.
        metadata_type: A dataclass, msgspec structure or other type that the metadata of each
            backend is converted to; None to keep it as it is.
        strict: Whether unknown keys are refused.

    Returns:
        The backends.

    Raises:
        Error: ``DISCOVERY_ERROR``: what is wrong, and where.
    """
    try:
        document = _load_json(data) if form == "json" else _load_yaml(data)
        if isinstance(document, list):
            document = {"backends": document}
        entries: Sequence[str | _Entry]
        if strict:
            entries = msgspec.convert(document, _StrictDocument).backends
        else:
            entries = msgspec.convert(document, _Document).backends
    except (msgspec.MsgspecError, yaml.YAMLError, ValueError, RecursionError) as error:
        _refuse(" ".join(str(error).split()), error)
    if len(entries) > max_backends:
        _refuse(f"{len(entries)} backends, at most {max_backends} are allowed")
    backends: dict[PeerAddress, Backend] = {}
    enabled: dict[PeerAddress, bool] = {}
    for index, entry in enumerate(entries):
        backend = _to_backend(entry, index, metadata_type)
        addr = backend.addr
        if backends.setdefault(addr, backend) != backend:
            _refuse(f"backends[{index}]: {backend} is given twice, in different ways")
        if isinstance(entry, _Entry) and entry.enabled is not None:
            enabled[addr] = entry.enabled
    return Discovered(tuple(backends.values()), enabled)


def _to_backend(entry: str | _Entry, index: int, metadata_type: type | None) -> Backend:
    try:
        if isinstance(entry, str):
            return Backend(entry)
        metadata = entry.metadata
        if metadata_type is not None and metadata is not None:
            metadata = msgspec.convert(metadata, metadata_type)
        return Backend(entry.address, entry.weight, metadata)
    except (ValueError, RecursionError) as error:
        _refuse(f"backends[{index}]: {error}", error)


def _load_json(data: bytes) -> object:
    document: object = msgspec.json.decode(data.removeprefix(BOM_UTF8))
    return document


def _load_yaml(data: bytes) -> object:
    text = data.removeprefix(BOM_UTF8).decode()
    _check_yaml(text)
    document: object = yaml.load(text, Loader=_Loader)  # noqa: S506  # a safe one
    return document


def _check_yaml(text: str) -> None:
    """Look at the parser's events, which come one at a time whatever the text is.

    The loader in C overflows its stack on deep nesting, both of them unfold aliases, and of a key
    given twice they take the last.
    """
    # For each open collection: of a mapping, its keys so far; of a sequence, nothing.
    keys: list[set[str] | None] = []
    expects_key: list[bool] = []
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            _complain(event, "aliases are not allowed")
        if isinstance(event, yaml.CollectionEndEvent):
            keys.pop()
            expects_key.pop()
            continue
        if not isinstance(event, yaml.NodeEvent):
            continue
        if keys:
            names = keys[-1]
            if names is not None and expects_key[-1]:
                if not isinstance(event, yaml.ScalarEvent):
                    _complain(event, "a key has to be a text")
                if event.value in names:
                    _complain(event, f"key {event.value!r} is given twice")
                names.add(event.value)
            expects_key[-1] = not expects_key[-1]
        if isinstance(event, yaml.CollectionStartEvent):
            if len(keys) >= _MAX_DEPTH:
                _complain(event, f"nested more than {_MAX_DEPTH} levels deep")
            keys.append(set() if isinstance(event, yaml.MappingStartEvent) else None)
            expects_key.append(True)


def _complain(event: yaml.Event, problem: str) -> NoReturn:
    mark = event.start_mark
    where = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
    raise ValueError(where + problem)


def _refuse(why: str, cause: BaseException | None = None) -> NoReturn:
    refuse(f"not a list of backends: {why}", cause)
