"""End a refused script with one line, and report that it would be refused again.

A refusal is an `InputError` about what the script does. The controller then ends the job with that reason, and does not
try it again as after a crash. Other errors end the script as usual.
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

#: Folders with code that is not the script's.
_LIBRARIES = (str(Path(__file__).resolve().parents[1]), *map(sysconfig.get_path, ("stdlib", "purelib", "platlib")))


def install(reporter: Reporter, explain: Callable[[BaseException], InputError | None], *, in_place: bool) -> None:
    """Show and report errors that end this process, as this module describes.

    Args:
        reporter: Reporter of this rank.
        explain: Called with each such error; returns the refusal that explains it, or None.
        in_place: Whether PowerFlow opens the process group, so that one of the script's own is refused.
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
    """Return whether a file of code belongs to the script, and not to a library."""
    return not path.startswith((*_LIBRARIES, "<"))


def one_line(error: InputError, trace: TracebackType | None) -> str:
    """Return the error's text, with the line of the script that caused it."""
    frames = [frame for frame in traceback.extract_tb(trace) if is_script(frame.filename)]
    place = f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}: " if frames else ""
    return place + " ".join(str(error).split())
