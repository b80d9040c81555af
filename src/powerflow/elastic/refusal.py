"""End a refused script with a message of one line, and report the refusal to the controller.

A refusal is an `InputError` about what the script does. The controller then ends the job, with this message as the
reason, and does not try the job again. Other errors end the script as usual.
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
    """Replace ``sys.excepthook``: if a refusal ends this process, print it as one line and report it.

    Args:
        reporter: Reporter of this rank.
        explain: Function that is called with each error that ends the process. It returns the refusal that explains the
            error, or None.
        in_place: True if PowerFlow started the script. Then the ranks have no process group before the first epoch.
    """
    behind = getattr(sys.excepthook, "powerflows_behind", sys.excepthook)

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        explained = explain(error)
        refused = error if isinstance(error, InputError) else explained
        if refused is None:
            refused = foreign.explain(error, trace, in_place=in_place)
        if refused is None:
            behind(kind, error, trace)
            return
        line = one_line(refused, trace)
        reporter.tell(note=line, refusal=line if refused.exit_code == 2 else "")
        print(f"powerflow: {line}", file=sys.stderr, flush=True)

    show.powerflows_behind = behind  # type: ignore[attr-defined]
    sys.excepthook = show


def is_script(path: str) -> bool:
    """Return True if a source file belongs to the script and not to a library."""
    return not path.startswith((*_LIBRARIES, "<"))


def one_line(error: InputError, trace: TracebackType | None) -> str:
    """Return the text of an error in one line. It begins with the file and line of the script that caused the error."""
    frames = [frame for frame in traceback.extract_tb(trace) if is_script(frame.filename)]
    place = f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}: " if frames else ""
    return place + " ".join(str(error).split())
