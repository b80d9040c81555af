"""A job that trains in place on the card, held and released by the controller, against the same training alone.

One rank, so NCCL's group has one member: what is tested is that state on a card (parameters, optimiser, place in the
data) survives a checkpoint, that a held job gives the card back, and what a step costs beside plain torch.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.on_gpu.card import TINY, the_gpu
from benchmarks.on_gpu.running import ROOT
from benchmarks.on_gpu.serving import Served, served

EPOCHS = 6 if TINY else 8
#: Between two epochs, so that there is time to hold the job. The same in all three ways: a card slows down meanwhile.
PAUSE_S = 0.5
#: A training script: plain torch, or with the library, alone or as a job. Its last line is its result.
_JOB = """
import json, statistics, sys, time
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

plain, epochs, samples, width, pause_s = sys.argv[1] == "plain", *map(int, sys.argv[2:5]), float(sys.argv[5])
where = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
torch.manual_seed(0)
x = torch.randn(samples, width)
data = TensorDataset(x, x.flip(1).tanh())
model = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)).to(where)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
took, losses, ends = [], [], None


def train(batches, model, backward):
    global ends
    for inputs, targets in batches:
        loss = nn.functional.mse_loss(model(inputs.to(where)), targets.to(where))
        backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        loss = loss.item()
        now = time.perf_counter()
        if ends is not None:
            took.append(now - ends)
        ends = now
    losses.append(loss)
    print(f"epoch {len(losses)} of this process: loss {loss:.9g}", flush=True)
    time.sleep(pause_s)
    ends = None


if plain:
    for _ in range(epochs):
        train(DataLoader(data, 32, shuffle=True, drop_last=True), model, lambda loss: loss.backward())
    steps = epochs * (samples // 32)
else:
    from powerflow import elastic

    run = elastic.init()
    wrapped = run.wrap(model, optimizer)
    for _ in run.epochs(epochs):
        train(run.batches(data, global_batch=32), wrapped, run.backward)
    steps = run.position.step
print(json.dumps({"device": str(where), "steps": steps, "loss": losses[-1], "epochs_here": len(losses),
                  "parameters": float(sum(p.double().square().sum() for p in model.parameters())),
                  "median_step_ms": 1e3 * statistics.median(took)}), flush=True)
"""


def measure(out: Path) -> dict[str, Any]:
    """Ends of the training in all three ways, and what its hold and its release took."""
    gpu, sizes = the_gpu(), ("256", "64") if TINY else ("8192", "2048")
    with tempfile.TemporaryDirectory(prefix="on_gpu_elastic_") as name:
        script = Path(name) / "job.py"
        script.write_text(_JOB)

        def words(how: str) -> list[str]:
            return [sys.executable, str(script), how, str(EPOCHS), *sizes, str(PAUSE_S)]

        plain, alone = _trained(words("plain"), words("library"))
        with served(Path(name)) as controller:
            number = controller.submit(
                *("--run", " ".join(words("library")), "--gpus", "1", "--rescale", "in-place"),
                *("--directory", name),
            )
            held = _held(controller, number)
            free = gpu.read()
            controller.ask("release", number)
            job = controller.ended(number)
            ended = _result(controller.said(number))
            log = controller.log().splitlines()
    return {
        "plain": plain,
        "alone": alone,
        "served": ended,
        "equal": ended["parameters"] == alone["parameters"] and ended["steps"] == alone["steps"],
        "parameters_off": abs(ended["parameters"] / alone["parameters"] - 1.0),
        "step_over_plain": {
            how: found["median_step_ms"] / plain["median_step_ms"]
            for how, found in (("alone", alone), ("served", ended))
        },
        "hold_s": held,
        "pids_while_held": free.pids,
        "job": job,
        "log": log[-20:],
    }


def _held(controller: Served, number: str) -> float:
    """Hold a job once it has trained two epochs; the seconds until it has left the card."""
    while controller.said(number).count("epoch ") < 2:
        if (job := controller.job(number))["state"] not in ("queued", "running"):
            raise RuntimeError(f"the job {job['state']}: {controller.said(number)[-800:]}")
        time.sleep(0.2)
    began_s = time.monotonic()
    controller.ask("hold", number)
    while (job := controller.job(number))["state"] == "running":
        time.sleep(0.1)
    if job["state"] == "completed":
        raise RuntimeError("the job completed before it could be held")
    return time.monotonic() - began_s


#: Runs scripts one after the other, each as a program of its own.
_IN_TURN = """
import json, runpy, sys
for sys.argv in json.loads(sys.argv[1]):
    runpy.run_path(sys.argv[0], run_name="__main__")
    print("end of a script", flush=True)
"""


def _trained(*commands: list[str]) -> list[dict[str, Any]]:
    """Results of training scripts, each in a process of its own; in one process if TINY, which imports torch once."""
    if not TINY:
        return [_result(_run(command)) for command in commands]
    python, arguments = commands[0][0], [command[1:] for command in commands]
    texts = _run([python, "-c", _IN_TURN, json.dumps(arguments)]).split("end of a script\n")
    return [_result(text) for text in texts[:-1]]


def _run(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout


def _result(text: str) -> dict[str, Any]:
    """The last line that is a result."""
    lines = [line for line in text.splitlines() if "{" in line]
    found: dict[str, Any] = json.loads(lines[-1][lines[-1].index("{") :])
    return found
