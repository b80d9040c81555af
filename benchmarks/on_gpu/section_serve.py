"""``powerflow serve`` over the card, and one real job from its submission to its joules."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.on_gpu.card import TINY, the_gpu
from benchmarks.on_gpu.serving import served

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
    with tempfile.TemporaryDirectory(prefix="on_gpu_serve_") as name:
        job = Path(name) / "job.py"
        job.write_text(_JOB)
        with served(Path(name)) as controller:
            before = gpu.read()
            number = controller.submit("--run", f"{sys.executable} {job} {2.0 if TINY else 15.0}", "--gpus", "1")
            ended = controller.ended(number)
            after = gpu.read()
            time.sleep(2.0)
            accounts = controller.ask("acct", "--by", "job")["accounts"]
            nodes = controller.ask("node", "list")["nodes"]
            said = controller.log().splitlines()
    charged = [one for one in accounts if one["name"] == number]
    return {
        "up_s": controller.up_s,
        "job": ended,
        "charged_j": charged[0]["energy_j"] if charged else None,
        "counter_j": after.energy_j - before.energy_j,
        "counted_s": after.time_s - before.time_s,
        "locked_mhz": [one["locked_mhz"] for node in nodes for one in node["gpus"]],
        "node_types": [node["gpu_type"] for node in nodes],
        "accounts": accounts,
        "log": said[-20:],
    }
