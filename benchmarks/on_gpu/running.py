"""Runs the sections: each in a process of its own, with a deadline, and with what it needs from others named."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
#: In the environment of a section: small sizes, torch on the CPU, the fake driver's file in FAKE_NVML_STATE.
FAKE = "ON_GPU_FAKE"
#: Deadlines are so many times as long over the fake driver.
FAKE_TIMES = 5
#: Lines of a failed section's output that are kept.
_TAIL = 15

_READING = ("pynvml", "numpy")
_FITTING = (*_READING, "scipy", "torch")
_SERVING = (
    *("numba", "typer", "rich", "yaml", "pydantic", "psutil", "sqlalchemy", "alembic", "fastapi", "uvicorn", "httpx"),
    *("prometheus_client", "structlog", "torch", "re2", "scipy", "opentelemetry"),
)


class Section(NamedTuple):
    """What a section needs: modules, and seconds at most."""

    needs: tuple[str, ...]
    most_s: float


SECTIONS: Mapping[str, Section] = {
    "driver": Section(_READING, 45.0),
    "load": Section((*_READING, "torch"), 45.0),
    "work": Section((*_READING, "torch"), 45.0),
    "serve": Section((*_READING, *_SERVING), 90.0),
    "elastic": Section((*_READING, *_SERVING), 85.0),
    "rescale": Section(("numpy", "torch"), 85.0),
    "profile": Section(_FITTING, 85.0),
}


def environment(directory: Path, *, fake: bool) -> dict[str, str]:
    """The environment of all sections: this repository's modules, and the fake driver where there is no real one."""
    before = os.environ.get("PYTHONPATH")
    paths = [str(ROOT / "src"), str(ROOT), *([before] if before else [])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    if fake:
        from tests.device.fake_nvml import Machine, build

        machine = Machine(build(directory), directory)
        machine.all.count = 1
        env |= machine.env | {"PYTHONPATH": env["PYTHONPATH"], FAKE: "1", "OMP_NUM_THREADS": "1"}
    return env


def missing(sections: Sequence[str]) -> dict[str, list[str]]:
    """Per section, the modules that it needs and this Python has not."""
    absent = {name: [m for m in SECTIONS[name].needs if importlib.util.find_spec(m) is None] for name in sections}
    return {name: modules for name, modules in absent.items() if modules}


def run_section(name: str, env: Mapping[str, str], out: Path, *, most_s: float) -> dict[str, Any]:
    """Run a section to its end or its deadline.

    Returns:
        ``ok``, ``seconds``, ``command``, ``result`` (what it measured), and ``failed`` (why it did not).
    """
    command = [sys.executable, "-m", "benchmarks.on_gpu.sections", name, str(out)]
    found: dict[str, Any] = {"ok": False, "seconds": 0.0, "command": command, "result": None, "failed": ""}
    if absent := missing([name]).get(name):
        return found | {"failed": f"this Python ({sys.executable}) has no {', '.join(absent)}"}
    # a fake card is tried on machines that others use; nothing is lent there by the minute
    limit_s = min(SECTIONS[name].most_s, most_s) * (FAKE_TIMES if env.get(FAKE) else 1)
    if limit_s < 5.0:
        return found | {"failed": "no time was left for it"}
    began_s = time.monotonic()
    process = subprocess.Popen(
        command,
        env=dict(env),
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        text, _ = process.communicate(timeout=limit_s)
        reason = f"ended with code {process.returncode}"
    except subprocess.TimeoutExpired:
        _end(process)
        text, reason = process.communicate()[0], f"was not done after {limit_s:.0f} s"
    lines = text.strip().splitlines()
    found["seconds"] = round(time.monotonic() - began_s, 2)
    if process.returncode == 0 and lines:
        return found | {"ok": True, "result": json.loads(lines[-1])}
    return found | {"failed": f"{reason}: {lines[-1] if lines else 'it said nothing'}", "said": lines[-_TAIL:]}


def _end(process: subprocess.Popen[str]) -> None:
    """End a section with all that it started in its own session; it may end its own children first."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(3.0)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
