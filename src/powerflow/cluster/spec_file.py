"""Read the YAML description of a cluster, with the line number of every error.

Values are read from YAML's syntax tree instead of plain dictionaries, because only the tree has line numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from powerflow.cluster.spec import NodeGroup, printable
from powerflow.errors import InputError
from powerflow.yaml_lines import at, compose, entries, line_of, read_text


def read_groups(path: Path) -> list[tuple[NodeGroup, int]]:
    """Read the node groups of a YAML file, each with the number of its first line.

    Raises:
        InputError: The file cannot be read, is not YAML, or has an unknown key or a wrong value.
    """
    where = printable(str(path))
    root = compose(read_text(path, where, "a cluster description"), where)
    if root is None:
        raise InputError("file is empty", where=where, fix="describe node groups under 'groups:'")
    groups: list[tuple[NodeGroup, int]] | None = None
    for key, value in entries(root, where):
        if key.value != "groups":
            raise InputError(f"unknown key {key.value!r}", where=at(where, key), fix="the only key here is 'groups'")
        if not isinstance(value, yaml.SequenceNode) or not value.value:
            raise InputError("'groups' is not a list of node groups", where=at(where, value))
        groups = [(_group(node, where), line_of(node)) for node in value.value]
    if groups is None:
        raise InputError("no 'groups'", where=where, fix="describe node groups under 'groups:'")
    return groups


def _group(node: yaml.Node, where: str) -> NodeGroup:
    values: dict[str, Any] = {}
    for key, value in entries(node, where):
        if key.value not in _READERS:
            known = ", ".join(_READERS)
            raise InputError(f"unknown key {key.value!r}", where=at(where, key), fix=f"known keys: {known}")
        values[key.value] = _READERS[key.value](key.value, value, where)
    for required in ("gpu_type", "count", "gpus"):
        if required not in values:
            raise InputError(f"the node group has no {required!r}", where=at(where, node))
    return NodeGroup(**values)


def _scalar(key: str, node: yaml.Node, where: str) -> object:
    """Return the value of a YAML scalar: text, number, truth value or nothing."""
    if not isinstance(node, yaml.ScalarNode):
        raise InputError(f"{key} is not a single value", where=at(where, node))
    try:
        return yaml.SafeLoader("").construct_object(node)
    except (yaml.YAMLError, ValueError):
        raise InputError(f"{key} is {node.value!r}", where=at(where, node)) from None


def _text(key: str, node: yaml.Node, where: str) -> str:
    if not isinstance(node, yaml.ScalarNode) or not node.value:
        raise InputError(f"{key} is not a name", where=at(where, node))
    return str(node.value)


def _whole(key: str, node: yaml.Node, where: str) -> int:
    value = _scalar(key, node, where)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{key} is {value!r}", where=at(where, node), fix="give a whole number")
    return value


def _number(key: str, node: yaml.Node, where: str) -> float:
    value = _scalar(key, node, where)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InputError(f"{key} is {value!r}", where=at(where, node), fix="give a number ≥ 0")
    return float(value)


def _truth(key: str, node: yaml.Node, where: str) -> bool:
    value = _scalar(key, node, where)
    if not isinstance(value, bool):
        raise InputError(f"{key} is {value!r}", where=at(where, node), fix="give true or false")
    return value


def _texts(key: str, node: yaml.Node, where: str) -> tuple[str, ...]:
    if not isinstance(node, yaml.SequenceNode) or not node.value:
        raise InputError(f"{key} is not a list of names", where=at(where, node))
    return tuple(_text(key, item, where) for item in node.value)


_BY_TYPE: dict[str, Callable[[str, yaml.Node, str], object]] = {
    "str": _text,
    "str | None": _text,
    "int": _whole,
    "int | None": _whole,
    "float": _number,
    "float | None": _number,
    "bool": _truth,
    "tuple[str, ...]": _texts,
}
#: Reader of each key. The keys are the fields of `NodeGroup`, so that both always agree.
_READERS = {field.name: _BY_TYPE[str(field.type)] for field in fields(NodeGroup)}
