"""End a refused script with one line, and report that it would be refused again.

A refusal is an `InputError` about what the script does. The controller ends the job at once with that reason, instead
of trying it again as after a crash. Errors of other kinds end a script as they always do.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from powerflow.elastic import foreign
from powerflow.elastic.reporter import Reporter
from powerflow.errors import InputError

#: Places of code that is not the script's.
_LIBRARIES = (str(Path(__file__).resolve().parents[1]), *map(sysconfig.get_path, ("stdlib", "purelib", "platlib")))


def install(reporter: Reporter, explain: Callable[[BaseException], InputError | None], *, in_place: bool) -> None:
    """Have errors that end this process shown, and reported, as described in the module.

    Args:
        reporter: Of this rank.
        explain: Told of every such error; gives the refusal that it stands for, if it stands for one.
        in_place: Whether the job's process group is ours to open, so that the script's own is refused.
    """
    behind = getattr(sys.excepthook, "powerflows_behind", sys.excepthook)

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        explained = explain(error)
        refused = error if isinstance(error, InputError) else explained
        if refused is None and in_place and foreign.meant_own_group(error, trace):
            refused = foreign.own_group(" ".join(str(error).split())[:160])
        if refused is None:
            behind(kind, error, trace)
            return
        line = one_line(refused, trace)
        reporter.tell(note=line, refusal=line if refused.exit_code == 2 else "")
        print(f"powerflow: {line}", file=sys.stderr, flush=True)

    show.powerflows_behind = behind  # type: ignore[attr-defined]
    sys.excepthook = show


def is_script(path: str) -> bool:
    """Whether a file of code is the script's own, and no library."""
    return not path.startswith((*_LIBRARIES, "<"))


def one_line(error: InputError, trace: TracebackType | None) -> str:
    """Return what is wrong, with the line of the script that caused it."""
    frames = [frame for frame in traceback.extract_tb(trace) if is_script(frame.filename)]
    place = f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}: " if frames else ""
    return place + " ".join(str(error).split())
