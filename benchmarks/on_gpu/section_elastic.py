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
from typing import TYPE_CHECKING, Any

from benchmarks.on_gpu.card import TINY, the_gpu
from benchmarks.on_gpu.running import ROOT
from benchmarks.on_gpu.serving import Served, served

if TYPE_CHECKING:
    from powerflow.device.nvml import NvmlGpu

EPOCHS = 6 if TINY else 8
#: Epochs after which a process of the training waits for a file, if it is told to: the job is held before that.
WAITS_AFTER = 2
#: A training script: plain torch, or with the library, alone or as a job. Its last line is its result.
_JOB = """
import json, pathlib, statistics, sys, time
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

plain, epochs, samples, width, waits_after = sys.argv[1] == "plain", *map(int, sys.argv[2:6])
waits_for = pathlib.Path(sys.argv[6]) if len(sys.argv) > 6 else None
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
    while waits_for and len(losses) == waits_after and not waits_for.exists():
        time.sleep(0.01)
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
            return [sys.executable, str(script), how, str(EPOCHS), *sizes, str(WAITS_AFTER)]

        plain, alone = _trained(words("plain"), words("library"))
        goes_on = Path(name) / "goes-on"
        with served(Path(name)) as controller:
            run = " ".join([*words("library"), str(goes_on)])
            number = controller.submit("--run", run, "--gpus", "1", "--rescale", "in-place", "--directory", name)
            command_s, left_s = _held(controller, number, goes_on, gpu)
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
        "hold_command_s": command_s,
        "left_the_card_s": left_s,
        "job": job,
        "log": log[-20:],
    }


def _held(controller: Served, number: str, goes_on: Path, gpu: NvmlGpu) -> tuple[float, float]:
    """Hold a job that waits for a file, then let it go on; seconds until the job is held, and until it left the card.

    A job is held at once; its rank stops at its next step. Nothing of it may then be on the card, by NVML.
    """
    while controller.said(number).count("epoch ") < WAITS_AFTER:
        if (job := controller.job(number))["state"] not in ("queued", "running"):
            raise RuntimeError(f"the job {job['state']}: {controller.said(number)[-800:]}")
        time.sleep(0.2)
    if not (before := gpu.read().pids) and not TINY:
        raise RuntimeError("NVML names no process of the running job, so it cannot say when it has gone")
    began_s = time.monotonic()
    controller.ask("hold", number)
    goes_on.touch()
    while (job := controller.job(number))["state"] == "running":
        time.sleep(0.02)
    command_s = time.monotonic() - began_s
    if job["state"] == "completed":
        raise RuntimeError("the job completed before it could be held")
    while left := gpu.read().pids:
        if time.monotonic() - began_s > 20.0:
            raise RuntimeError(f"held, but still on the card after 20 s: processes {left}, before {before}")
        time.sleep(0.02)
    return command_s, time.monotonic() - began_s


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
