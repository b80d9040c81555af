"""Write the output of commands: JSON, text for terminals, progress bars, and files."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from powerflow.cli.sanitize import visible
from powerflow.errors import InputError
from powerflow.osutil.files import replaced

if TYPE_CHECKING:
    from rich.console import Console

#: Version of every ``--json`` document; it rises when a field changes its meaning or is removed.
JSON_VERSION = 1

#: Control characters that JSON does not escape, although some terminals obey them like an escape.
_C1 = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}

#: Width of tables without a terminal (in a pipe or a file), where they must not be cut.
PIPE_WIDTH = 160


# --- JSON -------------------------------------------------------------------------------------------------------


def to_json(kind: str, payload: Mapping[str, Any] | object) -> str:
    """Return a JSON document, ``{"version": 1, "kind": kind, **payload}``, without a final newline.

    ``payload`` is a mapping or a dataclass instance. It may contain numpy arrays and scalars, dataclasses, enums, paths
    and sets. None, nan and infinities become null, because JSON cannot express nan and infinity.
    """
    return json.dumps(_document(kind, payload), ensure_ascii=False, allow_nan=False, indent=2).translate(_C1)


def json_line(kind: str, payload: Mapping[str, Any] | object) -> str:
    """Return a JSON document, as `to_json` does, in one line."""
    return json.dumps(_document(kind, payload), allow_nan=False)


def _document(kind: str, payload: Mapping[str, Any] | object) -> dict[str, Any]:
    body = plain(payload)
    if not isinstance(body, dict):
        raise TypeError(f"a JSON payload is a mapping or a dataclass, not {type(payload).__name__}")
    return {"version": JSON_VERSION, "kind": kind, **body}


def print_json(kind: str, payload: Mapping[str, Any] | object) -> None:
    """Print a JSON document (see `to_json`) on stdout."""
    sys.stdout.write(to_json(kind, payload) + "\n")


def plain(value: Any) -> Any:
    """Return a value in types that JSON has."""
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((plain(item) for item in value), key=str)
    if hasattr(value, "tolist"):  # numpy arrays and scalars, without importing numpy
        return plain(value.tolist())
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple) or hasattr(value, "__iter__"):
        return [plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no JSON form")


# --- the terminal -----------------------------------------------------------------------------------------------


def console(*, stderr: bool = False, least_width: int = 0) -> Console:
    """Return a rich console on stdout, or on stderr.

    Colours appear only on a terminal, and never if ``NO_COLOR`` is set. Without a terminal the width is large, so that
    tables are not cut. Printing raises `BrokenPipeError` if the reader of a pipe has stopped (``| head``).

    Args:
        stderr: True for stderr.
        least_width: The console is at least this number of characters wide; a narrower terminal breaks the lines.
    """
    from rich.console import Console
    from rich.segment import Segment

    class PipeAwareConsole(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # `main` then ends quietly; rich itself would exit with 1

        def render(self, renderable: Any, options: Any = None) -> Iterator[Segment]:
            """Replace control characters in all text, because names in logs, reasons and paths come from others."""
            for part in super().render(renderable, options):
                yield part if part.control is not None else Segment(visible(part.text), part.style)

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH
    made = PipeAwareConsole(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)
    made.width = max(made.width, least_width)
    return made


class Step(Protocol):
    """Function by which running work reports its progress."""

    def __call__(self, by: float = 1.0, note: str | None = None) -> None:
        """Add ``by`` to the finished work. ``note`` says what is being done now; None leaves the last note."""


@contextmanager
def progress(what: str, total: float | None = None) -> Iterator[Step]:
    """Show a progress bar on stderr during the ``with`` block, if stderr is a terminal.

    Args:
        what: What is being done, in a few words.
        total: Total amount of work, in any unit. With None, the bar shows only that the work is running.

    Yields:
        A `Step` function to call as the work makes progress.
    """
    if not sys.stderr.isatty():
        yield _no_step
        return
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False, style="dim"),
    )
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total, note="")

        def step(by: float = 1.0, note: str | None = None) -> None:
            bar.advance(task, by)
            if note is not None:
                bar.update(task, note=note)

        yield step


@contextmanager
def progress_of_share(what: str, quiet: bool) -> Iterator[Callable[[float, str], None]]:
    """Show a progress bar on stderr during the ``with`` block, unless ``quiet`` is True.

    Yields:
        A function to call with the share of the work that is done, and a note on what is being done now.
    """
    bar: AbstractContextManager[Step] = nullcontext(_no_step) if quiet else progress(what, total=1.0)
    with bar as step:
        done = 0.0

        def say(share: float, note: str) -> None:
            nonlocal done
            step(share - done, note)
            done = share

        yield say


def print_facts(facts: Mapping[str, str], report: Path | None) -> None:
    """Print the facts that a result is based on, one per line, and the path of its report."""
    lines = [f"{label}: {words}" for label, words in facts.items()] + ([] if report is None else [f"report: {report}"])
    for line in lines:
        console().print(line, soft_wrap=True)


def _no_step(by: float = 1.0, note: str | None = None) -> None:
    """Do nothing. This is the `Step` function if no progress bar is shown."""


# --- files ------------------------------------------------------------------------------------------------------


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file so that it is either complete or unchanged.

    Use ``with atomic_write(path) as file: file.write_text(…)``. ``file`` is a temporary path in the same folder, with
    the same suffix. If the block ends normally, this file replaces ``path``; after an exception or Ctrl-C it is
    deleted. If ``path`` is a link, the file that it names is replaced. If ``path`` is not a regular file
    (``/dev/stdout``, a pipe), it is written directly.

    Raises:
        InputError: The folder does not exist, the path is a folder, or the system does not allow the write.
    """
    target = Path(os.path.realpath(path))
    if os.path.exists(path) and not target.exists():  # /dev/stdout of a pipe leads to no path
        yield Path(path)
        return
    if target.is_dir():
        raise InputError("is a folder, not a file", where=os.fspath(path), fix="name a file in it")
    if not target.parent.is_dir():
        raise InputError("its folder does not exist", where=os.fspath(path), fix="create it first", exit_code=3)
    if target.exists() and not target.is_file():
        yield target
        return
    temporary = target.with_name(f".{target.stem}.{os.urandom(4).hex()}{target.suffix}")
    try:
        with replaced(target, temporary=temporary):
            if target.exists():
                if not os.access(target, os.W_OK):
                    raise PermissionError(13, "Permission denied", os.fspath(temporary))
                shutil.copymode(target, temporary)
            yield temporary
    except OSError as error:
        if error.filename in (None, os.fspath(temporary), temporary):
            why = (error.strerror or str(error)).lower()
            raise InputError(f"cannot be written ({why})", where=os.fspath(path), exit_code=1) from error
        raise
