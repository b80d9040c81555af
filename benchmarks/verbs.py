"""What a command takes that asks a controller: CPU seconds (user and system) of a fresh process, the best of N.

    python -m benchmarks.verbs [N] [--before CHECKOUT]

Starts a controller of emulated GPUs on this machine, with a job that runs, one that waits and one that has ended, and
runs each command N times (5), turn by turn. ``--before`` runs the commands of another checkout too, between those of
this one, so that other work on the machine slows both alike.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
POWERFLOW = str(Path(sys.executable).with_name("powerflow"))
#: No reading command is to take more, on the project's machine of two cores when it is quiet.
TARGET_S = 0.35
VERBS = (
    *("top", "queue", "queue --all", "describe 1", "explain 1", "logs 3", "history", "events", "acct", "audit"),
    *("node list", "mode", "budget show", "cap show", "share show", "signal show", "queue --json"),
    *("--version", "--help", "queue --help", "cap show --help", "submit --help"),
)


@contextmanager
def controller(directory: Path) -> Iterator[dict[str, str]]:
    """Start a controller with three jobs, and yield the environment in which commands find it."""
    environment = {**os.environ, "POWERFLOW_STATE": str(directory / "state"), "XDG_CONFIG_HOME": str(directory)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # each command would compile its modules once more

    def powerflow(*words: str) -> None:
        subprocess.run([POWERFLOW, *words], env=environment, cwd=directory, stdout=subprocess.DEVNULL, check=True)

    command = [POWERFLOW, "serve", "--emulate", "1x4:A100", "--port", "0", "--interval", "0", "--on-exit", "drain"]
    serve = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert serve.stdout is not None
        assert serve.stdout.readline(), "the controller did not start"
        powerflow("submit", "--output", "none", "--", "sleep", "3600")
        powerflow("submit", "--output", "none", "--gpus", "4", "--", "sleep", "3600")
        powerflow("submit", "--output", "none", "--wait", "--", "echo", "done")
        yield environment
    finally:
        serve.terminate()
        serve.communicate()


def cpu_s(verb: str, checkout: Path, environment: Mapping[str, str]) -> float:
    """Run a command of a checkout, and return the CPU seconds of its process."""
    own = {**environment, "PYTHONPATH": str(checkout / "src")}
    silent = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    process = os.posix_spawn(POWERFLOW, [POWERFLOW, *verb.split()], own, file_actions=silent)
    _, status, used = os.wait4(process, 0)
    assert status == 0, f"powerflow {verb} of {checkout} failed"
    return used.ru_utime + used.ru_stime


def best_cpu_s(checkouts: Sequence[Path], times: int, environment: Mapping[str, str]) -> dict[str, list[float]]:
    """Return the least CPU seconds of each command, for each checkout."""
    best = {verb: [math.inf] * len(checkouts) for verb in VERBS}
    for _ in range(times):
        for verb, least in best.items():
            for i, checkout in enumerate(checkouts):
                least[i] = min(least[i], cpu_s(verb, checkout, environment))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("times", metavar="N", type=int, nargs="?", default=5, help="runs of each command")
    parser.add_argument("--before", metavar="CHECKOUT", type=Path, help="measure another checkout too")
    arguments = parser.parse_args()
    checkouts = [HERE] if arguments.before is None else [arguments.before.resolve(), HERE]
    with tempfile.TemporaryDirectory() as directory, controller(Path(directory)) as environment:
        best = best_cpu_s(checkouts, arguments.times, environment)
    print(f"CPU seconds of a process, the best of {arguments.times}; load {os.getloadavg()[0]:.1f}")
    for verb, seconds in best.items():
        ratio = f"   {seconds[-1] / seconds[0]:.2f} times" if len(seconds) > 1 else ""
        said = " → ".join(f"{each:.3f}" for each in seconds)
        print(f"  powerflow {verb:<18} {said} s   {'met' if seconds[-1] <= TARGET_S else 'MISSED'}{ratio}")


if __name__ == "__main__":
    main()
