"""Make records from the JSON of an answer, without pydantic: to import it takes a command longer than all the rest."""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

Decoded = TypeVar("Decoded")


def decode(kind: type[Decoded], value: object) -> Decoded:
    """Return the value of a type that JSON data describe. Unknown fields of later versions are ignored.

    Args:
        kind: A dataclass of `powerflow.api`, or a type of one of its fields.
        value: The data, as `json.loads` returns them.

    Raises:
        ValueError: The data do not describe a value of this type.
    """
    return cast(Decoded, _decode(kind, value))


def _decode(kind: Any, value: Any) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin is Annotated:
        return _decode(inner[0], value)
    if origin in (Union, types.UnionType):
        return _first(inner, value)
    if origin is Literal:
        return _checked(kind, value, value in inner)
    if hasattr(kind, "model_validate_json"):  # a model of pydantic checks itself
        return kind.model_validate_json(json.dumps(value))
    if dataclasses.is_dataclass(origin or kind):
        return _record(origin or kind, inner, value)
    if origin is tuple or kind is tuple:
        return tuple(_decode(inner[0], item) for item in _checked(kind, value, isinstance(value, list)))
    if origin in (Sequence, list):
        return [_decode(inner[0], item) for item in _checked(kind, value, isinstance(value, list))]
    if origin in (Mapping, dict):
        items = _checked(kind, value, isinstance(value, dict)).items()
        return {_decode(inner[0], key): _decode(inner[1], item) for key, item in items}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(value)
    if kind is float:
        number = _checked(kind, value, isinstance(value, int | float) and not isinstance(value, bool))
        return float(number)
    if kind is int:
        return _checked(kind, value, isinstance(value, int) and not isinstance(value, bool))
    if kind in (None, types.NoneType):
        return _checked(kind, value, value is None)
    return _checked(kind, value, isinstance(value, kind))


def _first(kinds: Sequence[Any], value: Any) -> Any:
    for kind in kinds:
        try:
            return _decode(kind, value)
        except ValueError:
            continue
    raise ValueError(f"{value!r} is of none of the types {kinds}")


def _record(kind: Any, inner: Sequence[Any], value: Any) -> Any:
    """Make a dataclass; ``inner`` are the types of a generic one."""
    given = _checked(kind, value, isinstance(value, dict))
    parameters: Sequence[Any] = getattr(kind, "__parameters__", ())
    variables = dict(zip(parameters, inner, strict=True))
    fields = {
        name: _decode(_filled(hint, variables), given[name]) for name, hint in _hints(kind).items() if name in given
    }
    try:
        return kind(**fields)
    except TypeError as error:  # a field is missing
        raise ValueError(str(error)) from None


def _filled(hint: Any, variables: Mapping[Any, Any]) -> Any:
    """Put the types of a generic dataclass into the type of one of its fields."""
    if hint in variables:
        return variables[hint]
    inner: Sequence[Any] = getattr(hint, "__parameters__", ())
    return hint[tuple(variables[each] for each in inner)] if inner else hint


@cache
def _hints(kind: Any) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(kind) if field.init}
    return {name: hint for name, hint in get_type_hints(kind).items() if name in names}


def _checked(kind: Any, value: Any, right: bool) -> Any:
    if not right:
        raise ValueError(f"{value!r} is no {kind}")
    return value
