"""The program ``powerflow serve`` for jobs that train nothing."""

import sys

_PROGRAM = "import os; os.environ['POWERFLOW_PRELOAD'] = ''; import powerflow.__main__"
#: Command line of a controller whose engine loads no torch beforehand, which takes five seconds of CPU. Options follow.
SERVE = [sys.executable, "-c", _PROGRAM, "serve"]
