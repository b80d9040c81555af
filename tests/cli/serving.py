"""The program ``powerflow serve`` for jobs that train nothing."""

import shutil
import sys
from pathlib import Path

from tests.live.controller_bench import made_database

_PROGRAM = "import os; os.environ['POWERFLOW_PRELOAD'] = ''; import powerflow.__main__"
#: Command line of a controller whose engine loads no torch beforehand, which takes five seconds of CPU. Options follow.
SERVE = [sys.executable, "-c", _PROGRAM, "serve"]


def with_tables(state: Path) -> Path:
    """Make a controller's state folder with an empty database, whose tables take a second of CPU to make; return it."""
    state.mkdir(mode=0o700)
    shutil.copyfile(made_database(), state / "powerflow.db")
    return state


#: The program ``powerflow`` beside Slurm, which it asks every ``every_s`` seconds; ``more`` is done before.
BESIDE = """
import functools, os
os.environ["POWERFLOW_PRELOAD"] = ""
from powerflow.beside import poller
poller.Poller = functools.partial(poller.Poller, every_s={every_s})
{more}
import powerflow.__main__
"""
