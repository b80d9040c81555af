"""Slurm's Prolog and Epilog as slurmd runs them: nothing in the environment but what Slurm sets."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

HOOKS = Path(__file__).parents[2] / "deploy" / "slurm"
PROLOG, EPILOG = HOOKS / "powerflow-prolog", HOOKS / "powerflow-epilog"
#: What slurmd of Slurm 22.05 tells about a job with two GPUs.
JOB = {
    "SLURM_JOB_ID": "1247",
    "SLURM_JOB_GPUS": "2,0",
    "CUDA_VISIBLE_DEVICES": "2,0",
    "SLURM_JOB_UID": "1000",
    "SLURM_JOB_USER": "ada",
    "SLURM_JOB_ACCOUNT": "lab",
    "SLURM_JOB_PARTITION": "gpu",
    "SLURM_JOB_COMMENT": "powerflow:off",
    "SLURM_JOB_RESTART_COUNT": "0",
}


def run_hook(hook: Path, folder: Path | str, job: Mapping[str, str | bytes], shell: Sequence[str] = ()) -> str:
    """Run a hook over a folder of notes, and return what it says; it must end with 0.

    ``shell`` has the words before the script; none: the shell that the script names runs it.
    """
    env = {"POWERFLOW_SLURM_DIR": str(folder), **job}
    # it shall end within a second; after a minute, it hangs
    done = subprocess.run([*shell, str(hook)], env=env, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == b""
    return done.stderr.decode(errors="replace")
