"""Read ``job.yaml``. An error message names the line and the field.

The YAML version is 1.2: ``yes`` and ``on`` are text, and so are ``1:30``, ``010`` and dates. Anchors and tags are
errors.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from powerflow.api.job_spec import (
    JOB_NAME,
    NAME,
    NO_HOME,
    NO_NUL,
    VARIABLE,
    Batch,
    Checkpoint,
    Energy,
    Gpus,
    JobSpec,
    ProcessLimits,
    Work,
)
from powerflow.cluster.spec import printable
from powerflow.errors import InputError, shortened
from powerflow.yaml_lines import at, compose, decode, entries, line_of, read_text

#: Levels of nesting; a job has two.
_DEEPEST = 8
#: Most words of a command that an error message repeats.
_WORDS = 8

_PARTS: dict[str, type[BaseModel]] = {
    "": JobSpec,
    "gpus": Gpus,
    "batch": Batch,
    "energy": Energy,
    "checkpoint": Checkpoint,
    "work": Work,
    "limits": ProcessLimits,
}
_FIXES = {
    JOB_NAME: "remove line breaks, control characters and marks that change the direction of text",
    NAME: "use letters, digits, '.', '_' and '-'; begin with a letter or digit",
    NO_NUL: "remove the NUL character",
    NO_HOME: "give an absolute path, or a path relative to the job's directory",
    VARIABLE: "use letters, digits and '_'; do not begin with a digit",
    r"^/[^\x00]*$": "give an absolute path, /…",
}
_TYPES = {
    "string_type": "give text (put a number in quotes)",
    "int_type": "give a whole number",
    "int_from_float": "give a whole number",
    "float_type": "give a number",
    "dict_type": "give 'key: value' lines",
    "model_type": "give 'key: value' lines",
    "finite_number": "give a finite number",
}

Lines = dict[tuple[str, ...], int]


def read_spec(path: str | Path, over: Mapping[str, Any] | None = None) -> JobSpec:
    """Read a job from a YAML file.

    A relative ``directory`` in the job is relative to the file's folder. ``~`` is this process's home directory.

    Args:
        path: The file.
        over: Values that replace values of the file, such as command-line flags.

    Raises:
        InputError: The file cannot be read, is not YAML, or has an invalid value. The message has ``file:line``.
    """
    path = Path(path)
    where = printable(str(path))
    return spec_of_text(read_text(path, where, "a job"), where, folder=path.absolute().parent, over=over)


def spec_of_text(
    text: str | bytes,
    where: str = "standard input",
    *,
    folder: Path | None = None,
    over: Mapping[str, Any] | None = None,
) -> JobSpec:
    """Read a job from YAML text. A relative ``directory`` in it is relative to ``folder`` (None: the current folder).

    Raises:
        InputError: As in `read_spec`.
    """
    root = _compose(decode(text, where, "a job"), where)
    lines: Lines = {}
    values = _plain(root, (), lines, set(), where)
    if not isinstance(values, dict):
        raise InputError(
            "expected 'key: value' lines",
            where=f"{where}:{lines[()]}",
            fix="write lines such as 'run: python train.py'",
        )
    directory = values.get("directory")
    if isinstance(directory, str) and directory and "\0" not in directory:
        values["directory"] = _absolute(directory, folder or Path.cwd())
    limit = values.get("time_limit")
    if isinstance(limit, int | float):  # as text it would be refused, too
        values["time_limit"] = str(limit)
    checkpoint = values.get("checkpoint")
    for part, key in ((checkpoint, "dir"), (values, "output")):
        kept = part.get(key) if isinstance(part, dict) else None
        if isinstance(part, dict) and isinstance(kept, str) and kept.startswith("~") and "\0" not in kept:
            part[key] = _absolute(kept, Path())
    return spec_from({**values, **(over or {})}, where, lines)


def spec_from(mapping: Mapping[str, Any], where: str = "", lines: Lines | None = None) -> JobSpec:
    """Make a job from plain values, as a YAML or JSON parser returns them.

    Args:
        mapping: Values by their keys in job.yaml.
        where: Name of the source, for error messages.
        lines: Line number of each key, by the key's path; None if the source has no lines.

    Raises:
        InputError: A value is invalid. The message describes the first invalid value.
    """
    try:
        return JobSpec.model_validate(dict(mapping))
    except ValidationError as error:
        raise message_of(error, where, lines) from None


def message_of(error: ValidationError, where: str, lines: Lines | None = None) -> InputError:
    """Return an error of one line for the first value that is invalid; see `spec_from` for the arguments."""
    errors = [(_path(details), details) for details in error.errors(include_url=False)]
    known = lines or {}
    path, details = min(errors, key=lambda found: _line(found[0], known))
    what, fix = _message(path, details)
    return InputError(what, where=f"{where}:{_line(path, known)}" if lines else where, fix=fix)


def _compose(text: str, where: str) -> yaml.Node:
    root = compose(text, where)
    if root is None or (root.tag == "tag:yaml.org,2002:null" and not root.value):
        raise InputError("file is empty", where=where, fix="only 'run' is required: run: python train.py")
    return root


def _plain(node: yaml.Node, path: tuple[str, ...], lines: Lines, seen: set[int], where: str) -> Any:
    """Return the plain values of a syntax tree, and add the line of each to ``lines``."""
    lines.setdefault(path, line_of(node))
    place = at(where, node)
    if id(node) in seen:
        raise InputError("anchors ('&', '*') are not allowed here", where=place, fix="repeat the value")
    seen.add(id(node))
    if len(path) > _DEEPEST:
        raise InputError("the YAML is nested too deeply", where=place)
    if isinstance(node, yaml.ScalarNode):
        return _value(node, place)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*path, str(index)), lines, seen, where) for index, item in enumerate(node.value)]
    values: dict[str, Any] = {}
    for key, value in entries(node, where):
        lines[*path, key.value] = line_of(key)
        values[key.value] = _plain(value, (*path, key.value), lines, seen, where)
    return values


def _value(node: yaml.ScalarNode, place: str) -> Any:
    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    text = node.value
    if kind == "null":
        return None
    if kind == "bool" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind == "int" and re.fullmatch(r"-?(0|[1-9][0-9]{0,30})", text):
        return int(text)
    if kind == "float" and re.fullmatch(r"-?(0|[1-9][0-9]*)\.[0-9]+([eE][+-]?[0-9]+)?", text):
        return float(text)
    if kind in ("str", "bool", "int", "float", "timestamp", "merge", "value"):
        return text
    raise InputError(f"tag {shortened(node.tag)} is not allowed here", where=place, fix="leave it out")


def _absolute(directory: str, folder: Path) -> str:
    try:
        path = Path(directory).expanduser()
    except RuntimeError:  # no such user
        return directory
    return str(folder / path)


def _path(details: ErrorDetails) -> tuple[str, ...]:
    """Return the path of an error, as in `Lines`: without pydantic's own marks, or the field that a rule names."""
    field = details.get("ctx", {}).get("field")
    if field:
        return (str(field),)
    return tuple(str(part) for part in details["loc"] if part != "[key]")


def _line(path: tuple[str, ...], lines: Lines) -> int:
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


def _message(path: tuple[str, ...], details: ErrorDetails) -> tuple[str, str]:
    """Return what is wrong, and what would be right."""
    name = ".".join(printable(part)[:80] for part in path)
    kind, context, value = details["type"], details.get("ctx", {}), details["input"]
    if kind == "extra_forbidden":
        inside = f" in {path[0]}" if len(path) > 1 else ""
        return f"unknown key {shortened(path[-1])}{inside}", _nearest(path)
    if kind == "missing":
        return f"no {name!r}", "only 'run' is required: run: python train.py" if name == "run" else "give it"
    if kind == "rule":
        return f"{name}: {context['what']}", str(context["fix"])
    if value is None:
        return f"{name} is empty", "remove the key, or give a value"
    what = f"{name} is {shortened(value)}"
    if kind == "literal_error":
        choices = str(context["expected"]).replace("'", "")
        return what, f"give {choices.replace(', none or external', ' or none')}"  # no job can ask for the last one
    if kind == "string_pattern_mismatch":
        return what, _FIXES.get(str(context["pattern"]), f"it must match {context['pattern']}")
    if path == ("run",) and isinstance(value, list):
        return f"{what}, which is a list", _as_text(value)
    if kind in _TYPES:
        return what, _TYPES[kind]
    return what, _lower(details["msg"])


def _as_text(run: Sequence[object]) -> str:
    """Return how to write a command that was given as a list of its words, or a list of commands."""
    words = [str(word) for word in run]
    plain = words and all(re.fullmatch(r"[A-Za-z0-9_./=+-]{1,40}", word) for word in words[:_WORDS])
    command = " ".join(words) if plain and len(words) <= _WORDS else "cd data && python train.py"
    return f"write the command as one text: run: {command}"


def _lower(message: str) -> str:
    """Turn pydantic's message ("Input should be greater than 0") into ours ("it should be greater than 0")."""
    words = message.replace("Input", "it", 1)
    return words[:1].lower() + words[1:]


def _nearest(path: tuple[str, ...]) -> str:
    part = _PARTS.get(path[0] if len(path) > 1 else "", JobSpec)
    known = [field.alias or name for name, field in part.model_fields.items()]
    written = path[-1].lower()[:80]
    close = [name for name in known if written and name.startswith(written)]
    close += difflib.get_close_matches(written, known, n=1)
    return f"do you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
