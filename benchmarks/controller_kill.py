"""Kills the controller 200 times at random moments while jobs come and run, and checks what became of them.

    python -m benchmarks.controller_kill [KILLS]

Exits with an error as soon as something does not hold; what is checked stands in `tests.live.kill_bench`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.live.kill_bench import Bench, summary

KILLS = 200


def main() -> None:
    """Kill, check, and print."""
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else KILLS
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)  # jobs may run as other users
        print(summary(Bench(Path(directory), seed=kills).go(kills)))


if __name__ == "__main__":
    main()
