"""Kills the controller 200 times at random moments while jobs come and run, and checks what became of them.

    python -m benchmarks.controller_kill [KILLS]

Ends with 1, and a line that says what, where something does not hold: a job lost or run twice, joules that do not add
up (what is checked stands in `tests.live.kill_bench`), or a controller that was not back in time.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.live.kill_bench import Bench, summary

KILLS = 200
#: The controller is to be back so soon after it was killed.
BACK_S = 5.0


def main() -> int:
    """Kill, check, and print; 0 where all holds."""
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else KILLS
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)  # jobs may run as other users
        try:
            outcome = Bench(Path(directory), seed=kills).go(kills)
        except AssertionError as error:
            print(f"does not hold: {error}", file=sys.stderr)
            return 1
    print(summary(outcome))
    slowest_s = max(outcome.back_s)
    if slowest_s > BACK_S:
        print(f"does not hold: the controller was back after {slowest_s:.1f} s, not {BACK_S:.0f} s", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
