"""Kernels are compiled when one is called, and nothing loads numba before."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from powerflow.kernel import array_kernel, kernel


def run(program: str, *arguments: object) -> str:
    """What a fresh interpreter prints: in this one some other test has called a kernel."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.check_output(command, text=True)


IDLE = """
import sys
from pathlib import Path
import structlog
from powerflow.live.build import ClusterSettings, build
from powerflow.service.app import build_app
live = build(ClusterSettings(Path(sys.argv[1]), emulate="1x2:A100", interval_s=0.0), structlog.get_logger())
live.controller.start()
for _ in range(3):
    live.controller.turn()
live.desk.top()
live.controller.finish()
live.engine.shutdown(kill=True)
live.close()
print("numba" in sys.modules, "alembic" in sys.modules, "scipy" in sys.modules)
"""


def test_a_controller_of_no_jobs_loads_no_compiler(tmp_path: Path) -> None:
    assert run(IDLE, tmp_path / "state").splitlines()[-1] == "False False False"


FIRST = """
import sys, threading
import numpy as np
from powerflow.cluster import packing
from powerflow.cluster.buddy import choose_gpus
from powerflow.scheduler.ledger import advance
before = [choose_gpus]
print("numba" in sys.modules)
pool = packing.empty_pool([4, 4], [0, 0], 2)
threads = [threading.Thread(target=packing.place, args=(pool, owner, 3)) for owner in (0, 1)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(pool.held.tolist(), pool.room.tolist())
# 0b0111 goes to a block of two and one of one; a kernel that was kept before the first call still works
print(before[0](np.uint64(0b0111), 3) == choose_gpus(np.uint64(0b0111), 3) == 0b0111)
print(type(advance).__module__, type(before[0]).__module__)
"""


def test_the_first_call_of_a_kernel_replaces_all_of_them_also_with_two_threads() -> None:
    assert run(FIRST).splitlines() == ["False", "[3, 3] [1, 1]", "True", "numba.core.registry powerflow.kernel"]


def test_a_kernel_divides_as_numpy_and_an_array_kernel_as_python() -> None:
    @kernel
    def share(part: float, whole: float) -> float:
        return part / whole

    @array_kernel
    def checked_share(part: float, whole: float) -> float:
        return part / whole

    assert share.__name__ == "share"
    assert (share(1.0, 4.0), share(1.0, 0.0)) == (0.25, np.inf)
    with pytest.raises(ZeroDivisionError):
        checked_share(1.0, 0.0)


def test_what_uses_kernels_is_pickled_before_and_after_their_first_call() -> None:
    program = """
import pickle, sys
from powerflow.cluster.occupancy import Occupancy
from powerflow.cluster.spec import parse_cluster
nodes = parse_cluster("2x4:A100").nodes
packed = pickle.dumps(Occupancy(nodes))
assert "numba" not in sys.modules
sys.stdout.write(packed.hex())
"""
    occupancy = pickle.loads(bytes.fromhex(run(program)))
    occupancy.allocate(0, 3)
    assert pickle.loads(pickle.dumps(occupancy)).placement(0) == occupancy.placement(0)
