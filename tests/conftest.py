"""What holds for every test."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytest_plugins = ["tests.store.databases", "tests.device.fake_nvml"]

# The threads of numpy's and scipy's BLAS wait for each other by spinning: in a search for a bound they cost more than
# all else, and save nothing. The library reads this when it is loaded, here and in all programs that tests start.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# A shell that starts the tests in the background lets them ignore Ctrl-C, and every program that they start inherits
# that: tests that interrupt a program would wait for nothing.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Six thousand tests are collected and kept: a fifth of the time of that was spent in looking for garbage among them.
gc.disable()

# Where compiled files are not kept, each program that the tests start compiles every module again: a second of CPU.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Stores commit some ten thousand times in these tests, and wait for the disk each time: a disk in memory does not.
_MEMORY = "/dev/shm"
if os.path.ismount(_MEMORY) and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 2**31:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", _MEMORY)
    tempfile.tempdir = _MEMORY


_ROOT = Path(__file__).parents[1]
_KERNELS = _ROOT / "src" / "powerflow" / "policy" / "__pycache__"

_compiling: list[subprocess.Popen[bytes]] = []


def pytest_configure(config: pytest.Config) -> None:
    """Begin to compile the kernels in a clone where nobody has yet; several workers would each do it."""
    alone = hasattr(config, "workerinput") or not config.getoption("numprocesses", None)
    if not alone and not any(_KERNELS.glob("prices_kernel.allocate*.nbi")):
        command = [sys.executable, "-m", "tests.compile_kernels"]
        _compiling.append(subprocess.Popen(command, cwd=_ROOT))


def pytest_collection(session: pytest.Session) -> None:
    """Import the tests, each worker from another file on: what one worker has compiled, the others only read.

    In a new clone that takes longer than all else of a collection, and workers that go side by side would each do it.
    """
    worker = getattr(session.config, "workerinput", None)
    if worker is None:
        return
    folders = [path for argument in session.config.args if (path := Path(argument).resolve()).is_dir()]
    files = [file for folder in folders for file in sorted(folder.rglob("test_*.py"))]
    first = len(files) * int(worker["workerid"].removeprefix("gw")) // worker["workercount"]
    for file in files[first:] + files[:first]:
        with contextlib.suppress(Exception, pytest.skip.Exception):  # whoever collects it says what is wrong
            importlib.import_module(".".join(file.relative_to(_ROOT).with_suffix("").parts))


def pytest_collection_finish() -> None:
    """Look for garbage again, but not in all that was collected, which lives as long as the tests."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished() -> None:
    """Let no worker begin before the kernels are compiled: one core does that while others collect tests."""
    for process in _compiling:
        process.wait()


def pytest_unconfigure() -> None:
    """Leave no process behind where tests could not be collected."""
    for process in _compiling:
        process.kill()
        process.wait()


#: Files that take the longest begin first, so that none of them runs alone at the end.
_LONGEST = (
    "test_machines.py",
    "test_agents_on_hosts.py",
    "test_faults.py",
    "test_on_gpu.py",
    "test_nodes.py",
    "test_cluster_conformance.py",
    "test_ending.py",
    "test_serve_gpus.py",
    "test_local_faults.py",
    "test_client_commands.py",
    "test_rescale.py",
    "test_passes.py",
    "test_contract.py",
    "test_demo.py",
    "test_serve.py",
    "test_local_conformance.py",
    "test_prometheus_real.py",
    "test_hanging_driver.py",
    "test_stages.py",
    "test_serve_stages.py",
    "test_budgets.py",
    "test_caps.py",
    "test_roles.py",
    "test_recovery.py",
    "test_contract_live.py",
    "test_run_properties.py",
    "test_kernel.py",
    "test_controller.py",
    "test_app.py",
    "test_belief.py",
    "test_protection.py",
    "test_compare.py",
    "test_restarts.py",
    "test_migrations.py",
    "test_hosts.py",
    "test_signals.py",
    "test_cap.py",
    "test_rank_reports.py",
    "test_recipes.py",
    "test_collectives.py",
    "test_examples.py",
    "test_handover.py",
    "test_governed.py",
    "test_types.py",
    "test_replay_savings.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; each worker sorts alike, and ``--no-loadscope-reorder`` keeps this order."""
    items.sort(key=lambda item: _LONGEST.index(item.path.name) if item.path.name in _LONGEST else len(_LONGEST))
