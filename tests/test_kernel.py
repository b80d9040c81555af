"""Kernels are compiled when one is called, and nothing loads numba before."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from powerflow.kernel import array_kernel, kernel
from tests.cli.serving import with_tables


def run(program: str, *arguments: object) -> str:
    """What a fresh interpreter prints: in this one some other test has called a kernel."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.check_output(command, text=True)


IDLE = """
import os, sys
from pathlib import Path
import structlog
from powerflow.live.build import ClusterSettings, build
from powerflow.service.app import build_app
os.environ["POWERFLOW_PRELOAD"] = ""  # the engine's agent loads no torch, for ranks that never come
live = build(ClusterSettings(Path(sys.argv[1]), emulate="1x2:A100", interval_s=0.0), structlog.get_logger())
live.start()
for _ in range(3):
    live.controller.turn()
live.service.top()
live.controller.finish()
live.fabric.shutdown(kill=True)
live.close()
print("numba" in sys.modules, "alembic" in sys.modules, "scipy" in sys.modules)
"""


def test_a_controller_of_no_jobs_loads_no_compiler(tmp_path: Path) -> None:
    assert run(IDLE, with_tables(tmp_path / "state")).splitlines()[-1] == "False False False"


FIRST = """
import sys, threading
import numpy as np
from powerflow.cluster import packed_pool, packing
from powerflow.cluster.buddy import choose_gpus
from powerflow.scheduler.ledger import advance
before = [choose_gpus]
print("numba" in sys.modules)
pool = packed_pool.empty_pool([4, 4], [0, 0], 2)
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


LITTLE = """
import sys
import numpy as np
from powerflow.kernel import _Later, be_patient
be_patient(float(sys.argv[1]))
from powerflow.cluster.spec import parse_cluster
from powerflow.cost.catalogue import axes_for, family_model, gpu_type
from powerflow.cost.tabulate import tabulate
from powerflow.energy.terms import EnergyTerms
from powerflow.job import Job
from powerflow.policy.registry import load
from powerflow.scheduler import events as e
from powerflow.scheduler.rules.compose import with_rules
from powerflow.scheduler.scheduler import Scheduler
for seed in range(3):
    rng = np.random.default_rng(seed)
    axes = axes_for("A100", 4, [1, 2, 4, 8])
    policy = with_rules(load("prices"), interval_s=1.0)
    idle_w = {"A100": gpu_type("A100").idle_w}
    driver = Scheduler(parse_cluster("4x4:A100"), {"A100": axes}, idle_w, policy, interval_s=0.0)
    table = tabulate(family_model("imagenet", "A100"), axes, 256)
    driver.step(0.0, [e.CostLearned("c", "A100", table)])
    for turn in range(12):
        now_s, least = 60.0 * turn, int(2 ** rng.integers(0, 3))
        job = Job(f"j{turn}", now_s, "c", 1e4 * rng.uniform(0.5, 2), least, least, 8, protected=turn % 5 == 0)
        told = [e.Submitted(job, job.iterations, 30.0), EnergyTerms(1e-3 * turn, limit_w={"": 4000.0 - 300.0 * turn})]
        if turn % 4 == 3:
            told.append(e.Completed(f"j{turn - 3}"))
        if turn == 6:
            told.append(e.NodeFailed(driver.pools["A100"].occupancy.nodes[0].name))
        plan = driver.step(now_s, told)
        print([(c.job_id, c.gpus, c.clock_mhz, c.moved) for c in plan.changes], plan.gpu_price, len(plan.reasons()))
print("numba" in sys.modules, file=sys.stderr)
"""


def test_little_is_decided_in_plain_python_and_bit_by_bit_the_same() -> None:
    commands = [[sys.executable, "-c", LITTLE, patience] for patience in ("0", "1e9")]
    done = [subprocess.run(command, capture_output=True, text=True, check=True) for command in commands]
    assert done[0].stdout == done[1].stdout
    assert done[0].stdout.count("\n") == 3 * 12
    assert [each.stderr for each in done] == ["True\n", "False\n"]


PATIENT = """
import sys
import numpy as np
from powerflow.kernel import FEW, _Later, be_patient
from powerflow.scheduler import ledger
be_patient(float(sys.argv[1]))
def told(rows):
    done = np.zeros(rows)
    ledger.advance(done, np.arange(rows), np.ones(rows))
    return done.sum() == rows
print(told(FEW), "numba" in sys.modules, _Later.spent_s > 0)
print(told(FEW if sys.argv[2] == "few" else FEW + 1), "numba" in sys.modules)
"""


@pytest.mark.parametrize(
    ("patience", "rows", "said"),
    [
        ("10", "few", ["True False True", "True False"]),
        ("10", "many", ["True False True", "True True"]),
        ("1e-12", "few", ["True False True", "True True"]),
    ],
)
def test_patience_ends_with_many_rows_or_much_time(patience: str, rows: str, said: list[str]) -> None:
    assert run(PATIENT, patience, rows).splitlines() == said
