"""``powerflow serve`` over the card, and one real job from its submission to its joules.

The controller observes only (``--mode observe``): it places and meters, and never sets a clock.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.on_gpu.card import TINY, the_gpu
from benchmarks.on_gpu.running import ROOT

_COMMAND = (sys.executable, "-m", "powerflow")
#: What the job does: products of matrices for so many seconds on the one device that it sees.
_JOB = """
import sys, time
import torch
cuda = torch.cuda.is_available()
where, size = ("cuda", 8192) if cuda else ("cpu", 128)
a = torch.randn(size, size, device=where)
print("step 0 on", torch.cuda.get_device_name() if cuda else "the CPU", flush=True)
end_s, step = time.monotonic() + float(sys.argv[1]), 0
while time.monotonic() < end_s:
    b = a @ a
    if cuda:
        torch.cuda.synchronize()
    step += 1
    if step % 50 == 0:
        print("step", step, flush=True)
print("step", step, flush=True)
"""


def measure(out: Path) -> dict[str, Any]:
    """Times from submission to start and end, and joules as charged, beside what the counter says."""
    gpu = the_gpu()
    seconds = 3.0 if TINY else 15.0
    with tempfile.TemporaryDirectory(prefix="on_gpu_serve_") as name:
        state = Path(name) / "state"
        env = {**os.environ, "POWERFLOW_STATE": str(state), "NO_COLOR": "1", "POWERFLOW_URL": ""}
        job = Path(name) / "job.py"
        job.write_text(_JOB)
        log = (Path(name) / "serve.log").open("w+")
        words = ("serve", "--port", "0", "--interval", "1", "--mode", "observe", "--explore-steps", "0")
        env.pop("POWERFLOW_URL")
        served = subprocess.Popen([*_COMMAND, *words], env=env, stdout=log, stderr=log, cwd=ROOT)
        try:
            began_s = time.monotonic()
            while not (state / "server.json").exists():
                if served.poll() is not None or time.monotonic() - began_s > 45:
                    log.seek(0)
                    raise RuntimeError(f"serve did not begin: {log.read()[-800:]}")
                time.sleep(0.1)
            up_s = time.monotonic() - began_s
            before = gpu.read()
            run = f"{sys.executable} {job} {seconds}"
            submitted = _ask(env, "submit", "--run", run, "--gpus", "1")
            number = str(submitted.get("id") or submitted["job"]["id"])
            state_of: dict[str, Any] = {}
            while (state_of := _job(env, number))["state"] in ("queued", "running"):
                time.sleep(0.5)
            after = gpu.read()
            time.sleep(2.0)
            accounts = _ask(env, "acct", "--by", "job")
            nodes = _ask(env, "node", "list")
            log.seek(0)
            text = log.read()
        finally:
            served.terminate()
            try:
                served.wait(20)
            except subprocess.TimeoutExpired:
                served.kill()
            log.close()
    if state_of["state"] != "completed":
        raise RuntimeError(f"the job {state_of['state']}: {state_of}")
    charged = [one for one in accounts["accounts"] if one["name"] == number]
    return {
        "up_s": up_s,
        "job": state_of,
        "charged_j": charged[0]["energy_j"] if charged else None,
        "counter_j": after.energy_j - before.energy_j,
        "counted_s": after.time_s - before.time_s,
        "locked_mhz": [one["locked_mhz"] for node in nodes["nodes"] for one in node["gpus"]],
        "node_types": [node["gpu_type"] for node in nodes["nodes"]],
        "accounts": accounts["accounts"],
        "log": text.splitlines()[-20:],
    }


def _job(env: dict[str, str], number: str) -> dict[str, Any]:
    found = _ask(env, "describe", number)
    job: dict[str, Any] = found.get("job", found)
    return job


def _ask(env: dict[str, str], *words: Sequence[str] | str) -> dict[str, Any]:
    """What a command says, with --json."""
    done = subprocess.run([*_COMMAND, *map(str, words), "--json"], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"powerflow {' '.join(map(str, words))}: {done.stderr.strip()}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
