"""The demo as a newcomer meets it: in fresh clones, one after the other, on a machine that is busy with something else.

    python -m benchmarks.demo_clones [N] [--quiet-machine]

Each clone is of the last commit, with a copy of this clone's virtual environment from which all that is compiled is
taken away (Python's bytecode, numba's caches). A neighbour keeps one core busy all the while. Prints each result, and
ends with 1 if in any clone PowerFlow does not beat FIFO at maximum clock in mean completion time and in energy, or the
simulation of the same jobs is more than 10 % from what ran.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NEAR = 0.10
MOST_S = 900.0


@contextlib.contextmanager
def neighbour() -> Iterator[None]:
    """Somebody else who keeps one core busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        os.sched_setaffinity(process.pid, {min(os.sched_getaffinity(process.pid))})
        yield
    finally:
        process.kill()
        process.wait()


def fresh_clone(directory: Path) -> Path:
    """Clone the last commit, and give it a virtual environment in which nothing is compiled."""
    clone = directory / "powerflow"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    venv = clone / ".venv"
    subprocess.run(["cp", "-al", str(ROOT / ".venv"), str(venv)], check=True)
    for cache in list(venv.rglob("__pycache__")):
        shutil.rmtree(cache)
    packages = next(venv.glob("lib/python*/site-packages"))
    texts = [*packages.glob("*.pth"), *packages.glob("__editable__*.py"), *packages.glob("*.dist-info/direct_url.json")]
    scripts = [path for path in (venv / "bin").iterdir() if path.is_file() and not path.is_symlink()]
    for path in [*texts, *scripts, venv / "pyvenv.cfg"]:
        said = path.read_bytes()
        mode = path.stat().st_mode
        path.unlink()  # it is a hard link to the original
        path.write_bytes(said.replace(os.fsencode(ROOT), os.fsencode(clone)))
        path.chmod(mode)
    return clone


def outcomes_of(clone: Path) -> list[dict[str, float]]:
    """Run the demo: what it says of the live run, the same simulated, and FIFO simulated."""
    command = [str(clone / ".venv" / "bin" / "powerflow"), "demo", "--json"]
    ran = subprocess.run(command, cwd=clone, capture_output=True, text=True, timeout=MOST_S, check=False)
    if ran.returncode:
        raise SystemExit(f"the demo ended with {ran.returncode}: {ran.stderr.strip()[-2000:]}")
    found: list[dict[str, float]] = json.loads(ran.stdout)["outcomes"]
    return found


def judge(number: int, live: dict[str, float], same: dict[str, float], fifo: dict[str, float], took_s: float) -> bool:
    """Print one result; whether every claim holds."""
    near = [same[key] / live[key] - 1.0 for key in ("jct_s", "energy_j")]
    gains = [ours[key] / fifo[key] - 1.0 for ours in (live, same) for key in ("jct_s", "energy_j")]
    holds = max(map(abs, near)) <= NEAR and max(gains) < 0.0
    load = os.getloadavg()[0]
    print(
        f"{number:3}  JCT {live['jct_s']:5.1f} s live, {same['jct_s']:5.1f} simulated, {fifo['jct_s']:5.1f} FIFO;"
        f" energy {live['energy_j'] / 1e3:5.1f} kJ, {same['energy_j'] / 1e3:5.1f}, {fifo['energy_j'] / 1e3:5.1f};"
        f" over FIFO {gains[0]:+.0%} {gains[1]:+.0%} live, {gains[2]:+.0%} {gains[3]:+.0%} simulated;"
        f" rehearsal {near[0]:+.1%} {near[1]:+.1%}; {took_s:.0f} s, load {load:.1f}: {'holds' if holds else 'FAILS'}",
        flush=True,
    )
    return holds


def main() -> int:
    """Run the demo in so many fresh clones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clones", type=int, nargs="?", default=10)
    parser.add_argument("--quiet-machine", action="store_true", help="without the busy neighbour")
    options = parser.parse_args()
    held = 0
    with contextlib.nullcontext() if options.quiet_machine else neighbour():
        for number in range(1, options.clones + 1):
            with tempfile.TemporaryDirectory(prefix="powerflow-clone-", dir=ROOT.parent) as directory:
                clone = fresh_clone(Path(directory))
                began_s = time.monotonic()
                live, same, fifo = outcomes_of(clone)
                held += judge(number, live, same, fifo, time.monotonic() - began_s)
    print(f"{held} of {options.clones} clones: {'all claims hold' if held == options.clones else 'a claim FAILS'}")
    return 0 if held == options.clones else 1


if __name__ == "__main__":
    sys.exit(main())
