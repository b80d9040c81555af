"""Trains elastic jobs on four hosts while hosts and processes fail at random, and checks what became of them.

    python -m benchmarks.machines [FAULTS] [SEED]

Needs root and Linux namespaces (`powerflow.testing.hosts`). Ends with 1, and a line that says what, where something
does not hold; then everything that was written is kept in a folder that the line names. What is checked stands in
`tests.live.machines_bench`.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from tests.live.machines_bench import MachinesBench, summary

from powerflow.testing.hosts import why_not

FAULTS, HOSTS = 200, 4
#: The loss of a host is to be seen within this time.
SEEN_S = 5.0


def main() -> int:
    """Harm, check, and print; 0 where all holds."""
    faults = int(sys.argv[1]) if len(sys.argv) > 1 else FAULTS
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else faults
    if why := why_not():
        print(f"cannot run here: {why}", file=sys.stderr)
        return 1
    home = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="powerflow-machines-"))
    home.chmod(0o755)
    bench = MachinesBench(home, HOSTS, seed)
    try:
        outcome = bench.go(faults)
    except AssertionError as error:
        print(f"does not hold: {error}\n{summary(bench.outcome)}\nkept: {home}", file=sys.stderr)
        return 1
    shutil.rmtree(home)
    print(summary(outcome))
    slowest_s = max(outcome.seen.seen_s, default=0.0)
    if slowest_s > SEEN_S:
        print(
            f"does not hold: the loss of a host was seen after {slowest_s:.1f} s, not {SEEN_S:.0f} s", file=sys.stderr
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
