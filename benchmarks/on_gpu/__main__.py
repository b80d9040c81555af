"""What PowerFlow does on a real GPU, in at most six minutes: ``python -m benchmarks.on_gpu [--out DIR] [--fake]``.

Run it in the root of the repository with the Python that has torch; nothing need be installed but what the sections
name. No clock, limit or mode of the card is ever set. Writes ``on_gpu.json`` (all results, with their provenance) and
``on_gpu_points.csv`` (the profile, which ``powerflow fit`` reads) to ``--out``, by default ``$OUT``, else here.

Each section is a process of its own with its own deadline, so that one that fails or hangs loses none of the others;
what failed is said, in the record too, and makes the exit code 1. Without a GPU it says so in one line and ends with 0.
``--fake`` runs all of it, small, over the tests' fake driver and torch on the CPU: the figures then mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.on_gpu.running import SECTIONS, environment, missing, run_section
from benchmarks.on_gpu.what_ran import provenance, why_no_gpu

#: Seconds that all sections together may take.
WHOLE_S = 350.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or "."))
    parser.add_argument("--fake", action="store_true", help="small, over the fake driver and torch on the CPU")
    parser.add_argument("--only", nargs="*", choices=[*SECTIONS], default=[*SECTIONS])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="on_gpu_") as name:
        env = environment(Path(name), fake=given.fake)
        if reason := why_no_gpu(env):
            print(f"no NVIDIA GPU can be used here, nothing was measured: {reason}")
            return 0
        given.out.mkdir(parents=True, exist_ok=True)
        began_s = time.monotonic()
        record = {"version": 1, "kind": "on_gpu", "provenance": provenance(env, sys.argv, fake=given.fake)}
        sections: dict[str, object] = {}
        for section in given.only:
            left_s = WHOLE_S - (time.monotonic() - began_s)
            found = run_section(section, env, given.out, most_s=left_s)
            sections[section] = found
            said = "ok" if found["ok"] else f"FAILED: {found['failed']}"
            print(f"{section:<8} {found['seconds']:6.1f} s  {said}", flush=True)
            text = json.dumps({**record, "sections": sections}, indent=1, default=str)
            (given.out / "on_gpu.json").write_text(text + "\n", encoding="utf-8")  # after each: a kill loses one
        absent = missing([*given.only])
        if absent:
            print(
                "missing modules: " + "; ".join(f"{section}: {', '.join(names)}" for section, names in absent.items())
            )
    failed = [name for name, found in sections.items() if isinstance(found, dict) and not found["ok"]]
    print(f"{given.out / 'on_gpu.json'}: {len(sections) - len(failed)} of {len(sections)} sections")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
