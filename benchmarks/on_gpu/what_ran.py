"""Where a record comes from: card, driver, torch, commit, date, commands; and whether there is a card at all."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from benchmarks.on_gpu.running import FAKE, ROOT

_PROBE = """
import sys
try:
    import pynvml
    pynvml.nvmlInit()
    if not pynvml.nvmlDeviceGetCount():
        sys.exit("the driver knows of no GPU")
except ImportError:
    sys.exit("nvidia-ml-py is not installed in " + sys.executable)
except pynvml.NVMLError as error:
    sys.exit("NVML: " + str(error))
if sys.argv[1]:
    sys.exit()
try:
    import torch
except ImportError:
    sys.exit("torch is not installed in " + sys.executable)
sys.exit(None if torch.cuda.is_available() else "torch " + torch.__version__ + " sees no CUDA device")
"""
_TORCH = """
import importlib.util, runpy
of = runpy.run_path(importlib.util.find_spec("torch").submodule_search_locations[0] + "/version.py")
print(of["__version__"], of["cuda"])
"""
_CARD = """
import json, pynvml as n
n.nvmlInit()
h = n.nvmlDeviceGetHandleByIndex(0)
def of(ask, *a):
    try:
        return ask(*a)
    except n.NVMLError as error:
        return "not told: " + str(error)
print(json.dumps({"card": of(n.nvmlDeviceGetName, h), "uuid": of(n.nvmlDeviceGetUUID, h),
                  "driver": of(n.nvmlSystemGetDriverVersion), "gpus": n.nvmlDeviceGetCount()}))
"""


def why_no_gpu(env: Mapping[str, str]) -> str:
    """Why nothing can be measured here, in one line; "" where something can."""
    command = [sys.executable, "-c", _PROBE, env.get(FAKE, "")]
    done = subprocess.run(command, env=dict(env), capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    return (done.stderr.strip().splitlines() or [f"the driver ended the process ({done.returncode})"])[-1]


def provenance(env: Mapping[str, str], argv: Sequence[str], *, fake: bool) -> dict[str, Any]:
    """All that says where, when and of what the figures are."""
    import json

    card = _said([sys.executable, "-c", _CARD], env)
    torch = _said([sys.executable, "-c", _TORCH], env)
    return {
        **(json.loads(card) if card.startswith("{") else {"card": card}),
        "fake": fake,
        "torch": torch,
        "commit": _said(["git", "-C", str(ROOT), "rev-parse", "HEAD"], env),
        "changed": bool(_said(["git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no"], env)),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": list(argv),
        "python": sys.version.split()[0],
        "system": platform.platform(),
    }


def _said(command: Sequence[str], env: Mapping[str, str]) -> str:
    try:
        done = subprocess.run(list(command), env=dict(env), capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unknown: {error}"
    return done.stdout.strip() if done.returncode == 0 else f"unknown: {done.stderr.strip()[-200:]}"
