"""Read YAML files, with the line number of every error.

Results are syntax trees (`yaml.Node`) instead of dictionaries, because these have no line numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from powerflow.errors import InputError, shortened

#: A larger file is probably another file given by mistake, such as a log.
MOST_BYTES = 1 << 20


def read_text(path: Path, where: str, what: str) -> str:
    """Read a text file of at most 1 MiB.

    Args:
        path: The file.
        where: Name of the file in error messages.
        what: What the file should contain, for error messages, such as "a job".

    Raises:
        InputError: The file cannot be read, is too large, or is not text; exit code 3 if it does not exist.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise InputError("no such file", where=where, exit_code=3) from None
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror}", where=where, exit_code=1) from None
    except ValueError:  # a NUL in the path
        raise InputError("not a path to a file", where=where) from None
    return decode(content, where, what)


def decode(content: str | bytes, where: str, what: str) -> str:
    """Decode UTF-8 text; ``where`` and ``what`` are as in `read_text`.

    Raises:
        InputError: The content is not text.
    """
    if len(content) > MOST_BYTES:
        raise InputError(f"larger than 1 MiB: not {what}", where=where)
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise InputError(f"binary file, not {what}", where=where)
    return text


def compose(text: str, where: str) -> yaml.Node | None:
    """Parse YAML text into its syntax tree; return None if the text has only white space and comments.

    Raises:
        InputError: The text is not YAML; the message has ``where:line``.
    """
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"not YAML: {error.problem}", where=where + line) from None
    except yaml.reader.ReaderError as error:
        raise InputError(f"not YAML: {error.reason}", where=where) from None
    except (yaml.YAMLError, RecursionError, ValueError):
        raise InputError("not YAML, or nested too deeply", where=where) from None


def line_of(node: yaml.Node) -> int:
    """Return the line number where a node begins, from 1."""
    return node.start_mark.line + 1


def at(where: str, node: yaml.Node) -> str:
    """Return ``where:line`` for error messages, with the line where a YAML node begins."""
    return f"{where}:{line_of(node)}"


def entries(node: yaml.Node, where: str) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
    """Yield each key and value of a YAML mapping.

    Raises:
        InputError: The node is not a mapping, a key is not a plain word, or a key occurs twice (YAML would silently use
            the later value).
    """
    if not isinstance(node, yaml.MappingNode):
        raise InputError("expected 'key: value' lines", where=at(where, node))
    seen: set[str] = set()
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise InputError("a key is not a plain word", where=at(where, key))
        if key.value in seen:
            raise InputError(f"key {shortened(key.value)} occurs twice", where=at(where, key))
        seen.add(key.value)
        yield key, value
