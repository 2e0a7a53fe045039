"""Keys that a typed section does not know: slips of the pen, most often.

A key that is not read is a setting that silently has its default; where the default is "everybody
may come in", that is worse than a server that does not start.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

import msgspec.inspect as types

from pingora_core.conf._load import refuse

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["refuse_strangers"]


def refuse_strangers(data: object, wanted: object, source: str, prefix: str) -> None:
    """Refuse keys that no field of a dataclass, structure or TypedDict has, at any depth.

    Args:
        data: Nested mappings, sequences and scalars that fit the type.
        wanted: The type.
        source: The file, for messages.
        prefix: The key that ``data`` stands at.

    Raises:
        Error: ``CONFIG_ERROR`` that names the first such key, and the one that may be meant.
    """
    for where, key, known in _strangers(data, types.type_info(wanted), prefix):
        near = difflib.get_close_matches(key, known, n=1)
        meant = f"is {near[0]!r} meant?" if near else f"allowed: {', '.join(known) or 'none'}"
        refuse(source, f"{where}.{key}", f"is not a key; {meant}")


def _strangers(
    data: object, kind: types.Type, where: str
) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    match kind, data:
        case types.Metadata(), _:
            yield from _strangers(data, kind.type, where)
        case types.UnionType(), _:
            # Which of several mappings is meant, only msgspec knows.
            holders = [each for each in kind.types if not isinstance(each, types.NoneType)]
            if len(holders) == 1:
                yield from _strangers(data, holders[0], where)
        case ((types.DataclassType() | types.StructType() | types.TypedDictType()), dict()):
            yield from _in_fields(data, kind, where)
        case types.DictType(), dict():
            for key, value in data.items():
                yield from _strangers(value, kind.value_type, f"{where}.{key}")
        case ((types.ListType() | types.VarTupleType()), list()):
            for index, value in enumerate(data):
                yield from _strangers(value, kind.item_type, f"{where}[{index}]")
        case _:
            pass


def _in_fields(
    data: dict[object, object],
    kind: types.DataclassType | types.StructType | types.TypedDictType,
    where: str,
) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    fields: dict[object, types.Type] = {each.encode_name: each.type for each in kind.fields}
    if isinstance(kind, types.StructType) and kind.tag_field is not None:
        fields[kind.tag_field] = types.AnyType()
    for key, value in data.items():
        if key in fields:
            yield from _strangers(value, fields[key], f"{where}.{key}")
        else:
            yield where, str(key), tuple(map(str, fields))
