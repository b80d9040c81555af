"""Run a script as ``python script args…`` does, but in an interpreter that has imported modules already.

Python and the dynamic linker read most environment variables only when a process starts, which is too late here.
`HEEDED` lists the variables of Python that still take effect.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import random
import sys
import types
from collections.abc import Sequence
from importlib.machinery import SourceFileLoader

HEEDED = frozenset({"PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"})
_NO_SUCH_SCRIPT = 2  # what python itself exits with


def preload(modules: Sequence[str]) -> list[str]:
    """Import modules, so that forks of this process have them.

    Return a notice for each module that cannot be imported.
    """
    notices = []
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:  # a module may do anything at import
            notices.append(f"cannot preload {module}: {type(error).__name__}: {error}")
    gc.collect()
    gc.freeze()  # otherwise the collector touches, and so copies, every page in every fork
    return notices


def own_path() -> tuple[str, ...]:
    """Return this process's ``sys.path`` without the directory of its script and without the entries of PYTHONPATH."""
    ours = {os.path.abspath(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry}
    return tuple(entry for entry in sys.path[1:] if entry not in ours)


def run_script(command: Sequence[str], path: Sequence[str]) -> None:
    """Run ``[python, script, args…]`` as the main program, with the current environment and working directory.

    The function returns when the script ends, or raises the exception that ends the script. The caller must then let
    the interpreter end as usual (threads, atexit functions, exit code).

    Args:
        command: Name of the interpreter, path of the script, and the script's arguments.
        path: Entries of ``sys.path`` that come after the script's directory and the entries of PYTHONPATH.
    """
    script = command[1]
    sys.argv = list(command[1:])
    sys.orig_argv = list(command)
    extra = [os.path.abspath(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    sys.path[:] = [os.path.dirname(os.path.realpath(script)), *extra, *path]
    importlib.invalidate_caches()
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    sys.stdout.reconfigure(line_buffering=True, write_through=unbuffered)  # type: ignore[union-attr]
    _differ_from_siblings()
    main = types.ModuleType("__main__")
    main.__dict__.update(__file__=script, __builtins__=__builtins__, __loader__=SourceFileLoader("__main__", script))
    sys.modules["__main__"] = main
    try:
        with open(script, "rb") as file:
            source = file.read()
    except OSError as error:
        print(f"{command[0]}: can't open file {script!r}: {error}", file=sys.stderr)
        sys.exit(_NO_SUCH_SCRIPT)
    try:
        exec(compile(source, script, "exec", dont_inherit=True), main.__dict__)
    except SystemExit:
        raise
    except BaseException as error:
        below = error.__traceback__.tb_next if error.__traceback__ else None
        sys.excepthook(type(error), error.with_traceback(below), below)  # the user's frames, not ours
        sys.exit(1)


def _differ_from_siblings() -> None:
    """Reset what forks share but new processes would not share: random states, and the number of OpenMP threads."""
    random.seed()
    if numpy_random := sys.modules.get("numpy.random"):
        numpy_random.seed()
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if (torch := sys.modules.get("torch")) and threads.isdigit():  # torch read the variable at its import
        with contextlib.suppress(ValueError, RuntimeError):
            torch.set_num_threads(int(threads))
