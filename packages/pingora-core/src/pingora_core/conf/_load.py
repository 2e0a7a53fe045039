"""From YAML text to typed values, with errors that name file, key, value and what is allowed.

Every error is ``CONFIG_ERROR``, its context one line fit to be shown to an operator as it is.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Final,
    NoReturn,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec
import yaml

from pingora_error import Custom, Error, ErrorSource

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = [
    "CONFIG_ERROR",
    "convert",
    "convert_value",
    "describe_value",
    "load_mapping",
    "load_value",
    "read_file",
    "refuse",
    "refuse_value",
]

CONFIG_ERROR: Final = Custom("ConfigError")

T = TypeVar("T")

_MAX_SHOWN_VALUE: Final = 80
# How msgspec words a missing key, and how it writes the steps of a path.
_MISSING_KEY: Final = re.compile(r"Object missing required field `(.+)`")
_PATH_STEP: Final = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")
_TEXT_TAG: Final = "tag:yaml.org,2002:str"
_NUMBER_TAGS: Final = frozenset({"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"})


def refuse(source: str, key: str, problem: str, *, cause: BaseException | None = None) -> NoReturn:
    """Say that something is wrong in a configuration.

    Args:
        source: The file, or what stands for it.
        key: Where in it; "" for the whole.
        problem: What is wrong, and what is allowed.
        cause: The failure behind it.

    Raises:
        Error: ``CONFIG_ERROR``; its context is one line.
    """
    line = _join(source, key, problem)
    raise Error(CONFIG_ERROR, line, source=ErrorSource.INTERNAL, cause=cause)


def refuse_value(
    source: str, key: str, value: object, allowed: str, *, cause: BaseException | None = None
) -> NoReturn:
    """Say that a value is not allowed.

    Args:
        source: The file, or what stands for it.
        key: Where in it; "" for the whole.
        value: What was found; shown shortened.
        allowed: What would be right.
        cause: The failure behind it.

    Raises:
        Error: ``CONFIG_ERROR``; its context is one line.
    """
    refuse(source, key, _got(value, allowed), cause=cause)


def describe_value(source: str, key: str, value: object, allowed: str) -> str:
    """Word what `refuse_value` says, for who collects problems instead of raising the first.

    Args:
        source: The file, or what stands for it.
        key: Where in it; "" for the whole.
        value: What was found; shown shortened.
        allowed: What would be right.

    Returns:
        One line.
    """
    return _join(source, key, _got(value, allowed))


def read_file(path: str) -> str:
    """Read a configuration file.

    Args:
        path: Where it is.

    Returns:
        Its text.

    Raises:
        Error: ``CONFIG_ERROR`` if it cannot be read or is not UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        problem = f"cannot be read: {error.strerror or error}"
        refuse(path, "", problem, cause=error)
    except ValueError as error:  # no UTF-8, or a NUL in the path
        refuse(path, "", f"cannot be read: {error}", cause=error)


def load_value(text: str, source: str, verbatim: Collection[str] = ()) -> object:
    """Parse YAML of any kind.

    Args:
        text: One YAML document.
        source: Where it is from, for messages.
        verbatim: Keys of a mapping whose numbers stay the text that was written.

    Returns:
        The value, as YAML types it; None for an empty text.

    Raises:
        Error: ``CONFIG_ERROR`` if the text is no YAML, or has a key twice.
    """
    try:
        return _parse(text, verbatim)
    except yaml.MarkedYAMLError as error:
        refuse(source, "", f"is not valid YAML: {_describe(error)}", cause=error)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        refuse(source, "", f"is not valid YAML: {error}", cause=error)


def load_mapping(text: str, source: str, verbatim: Collection[str] = ()) -> dict[str, object]:
    """Parse YAML that has to be a mapping with text keys.

    Args:
        text: One YAML document; empty stands for an empty mapping.
        source: The file, for messages.
        verbatim: Keys whose numbers stay the text that was written.

    Returns:
        The mapping, its values as YAML types them.

    Raises:
        Error: ``CONFIG_ERROR`` if the text is no YAML, no mapping, or has a key twice.
    """
    document = load_value(text, source, verbatim)
    if document is None:
        return {}
    if not isinstance(document, dict):
        refuse_value(source, "", document, "a mapping of keys to values")
    mapping: dict[str, object] = {}
    for key, value in document.items():
        if not isinstance(key, str):
            refuse_value(source, "", key, "text as a key")
        mapping[key] = value
    return mapping


def convert(data: object, wanted: type[T], source: str, prefix: str = "") -> T:
    """Give data of YAML's types the types of a class, checking every constraint.

    Args:
        data: Nested mappings, sequences and scalars.
        wanted: A dataclass, msgspec structure, TypedDict or any other type msgspec knows.
        source: The file, for messages.
        prefix: The key that ``data`` stands at; "" for the top.

    Returns:
        A ``wanted``.

    Raises:
        Error: ``CONFIG_ERROR`` that names the first value that does not fit.
    """
    try:
        return msgspec.convert(data, wanted)
    except msgspec.ValidationError as error:
        _refuse_misfit(error, data, wanted, source=source, prefix=prefix)


def convert_value(data: object, hint: object, source: str) -> object:
    """Give data of YAML's types the type of an annotation, checking every constraint.

    Args:
        data: Nested mappings, sequences and scalars.
        hint: The annotation.
        source: Where the data is from, for messages.

    Returns:
        The value.

    Raises:
        Error: ``CONFIG_ERROR`` that names the first value that does not fit.
    """
    try:
        value: object = msgspec.convert(data, hint)
    except msgspec.ValidationError as error:
        _refuse_misfit(error, data, hint, source=source)
    return value


def _refuse_misfit(
    error: msgspec.ValidationError, data: object, wanted: object, *, source: str, prefix: str = ""
) -> NoReturn:
    problem, _, path = str(error).partition(" - at `$")
    path = path.removesuffix("`")
    missing = _MISSING_KEY.match(problem)
    if missing is not None:
        path += f".{missing[1]}"
    key = (prefix + path).removeprefix(".")
    steps = [name or int(index) for name, index in _PATH_STEP.findall(path)]
    expected = problem.partition(", got")[0].removeprefix("Expected ").replace("`", "")
    described = _allowed(wanted, steps)
    if missing is not None:
        wish = "" if described is None else f", allowed: {described}"
        refuse(source, key, f"is missing{wish}", cause=error)
    refuse_value(source, key, _look_up(data, steps), described or expected, cause=error)


def _allowed(wanted: object, steps: list[str | int]) -> str | None:
    # The description that the author of the type gave to the field, or to the whole.
    hint = wanted
    if isinstance(wanted, type):
        if not steps or not isinstance(steps[0], str):
            return None
        hint = get_type_hints(wanted, include_extras=True).get(steps[0])
    for part in (hint, *get_args(hint)):
        if get_origin(part) is not Annotated:
            continue
        for meta in part.__metadata__:
            if isinstance(meta, msgspec.Meta) and meta.description is not None:
                return meta.description
    return None


def _look_up(data: object, steps: list[str | int]) -> object:
    for step in steps:
        match data, step:
            case dict(), str() if step in data:
                data = data[step]
            case ((list() | tuple()), int()):
                data = data[step]
            case _:
                break
    return data


def _join(source: str, key: str, problem: str) -> str:
    parts = [source, key, problem] if key else [source, problem]
    return " ".join(": ".join(parts).split())


def _got(value: object, allowed: str) -> str:
    return f"got {_show(value)}, allowed: {allowed}"


def _show(value: object) -> str:
    match value:
        case None:
            text = "null"
        case bool():
            text = str(value).lower()
        case _:
            text = repr(value)
    return text if len(text) <= _MAX_SHOWN_VALUE else f"{text[:_MAX_SHOWN_VALUE]}..."


def _describe(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or str(error)
    mark = error.problem_mark
    return problem if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: {problem}"


def _parse(text: str, verbatim: Collection[str]) -> object:
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_keys(node)
        if isinstance(node, yaml.MappingNode):
            node.value = [(key, _keep_text(key, value, verbatim)) for key, value in node.value]
        document: object = loader.construct_document(node)
    finally:
        loader.dispose()
    return document


def _keep_text(key: yaml.Node, value: yaml.Node, verbatim: Collection[str]) -> yaml.Node:
    # YAML 1.1 reads 0027 as 23, and 27 as 27: once it has, nobody can tell what was meant.
    if not isinstance(key, yaml.ScalarNode) or not isinstance(value, yaml.ScalarNode):
        return value
    if key.value in verbatim and value.tag in _NUMBER_TAGS:
        return yaml.ScalarNode(_TEXT_TAG, value.value, value.start_mark, value.end_mark)
    return value


def _check_keys(root: yaml.Node) -> None:
    # Of a key given twice YAML's own loader takes the last without a word. Looked for in the
    # nodes, where merge keys, which may be overridden, are not resolved yet.
    pending = [root]
    seen_nodes: set[int] = set()
    while pending:
        node = pending.pop()
        if isinstance(node, yaml.ScalarNode) or id(node) in seen_nodes:
            continue
        seen_nodes.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            pending.extend(node.value)
            continue
        keys: set[tuple[str, str]] = set()
        for key_node, value_node in node.value:
            pending.append(value_node)
            if not isinstance(key_node, yaml.ScalarNode):
                continue
            key = (key_node.tag, key_node.value)
            if key in keys:
                problem = f"key {key_node.value!r} is given twice"
                mark = key_node.start_mark
                raise yaml.composer.ComposerError(problem=problem, problem_mark=mark)
            keys.add(key)
