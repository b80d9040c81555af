"""Launchers in a run line: what is started on each node instead, and what is refused."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from powerflow.api.job_spec import JobSpec
from powerflow.api.launchers import launcher_of
from powerflow.api.rank_batch import batch_environment, rank_batch
from powerflow.errors import InputError
from powerflow.gangs.types import GangCompleted, GangFailed, Noted, Started
from powerflow.store.mappers import to_json
from tests.gangs.bench import PYTHON, Bench, order, spec_of
from tests.gangs.fake_engine import Script

TORCHRUN = [PYTHON, "-m", "torch.distributed.run"]
OURS = "--nnodes 1 --nproc-per-node 2 --node-rank 0 --master-addr 127.0.0.1 --master-port 99"


def started(run: str, *gpus: int, node: int = 0) -> list[str]:
    launcher = launcher_of(run)
    assert launcher is not None
    return list(launcher.command(node=node, gpus=gpus or (2,), port=99, interpreter=PYTHON))


@pytest.mark.parametrize(
    ("run", "rest"),
    [
        ("torchrun train.py", "train.py"),
        ("torchrun --standalone --nproc-per-node 2 short.py", "short.py"),
        (
            "torchrun --nproc_per_node=gpu --nnodes=1:4 --rdzv-backend c10d --rdzv_endpoint h:1 t.py --lr 1",
            "t.py --lr 1",
        ),
        (
            "torchrun --max-restarts 3 -t 1 -m pkg.train --nproc-per-node 9",
            "--max_restarts=3 -t 1 -m pkg.train --nproc-per-node 9",
        ),
        ("python -m torch.distributed.run --master_port 1 t.py 'a b'", "t.py 'a b'"),
        ("python3 -m torch.distributed.launch --use_env --nproc_per_node 4 t.py", "t.py"),
    ],
)
def test_torchrun_is_told_how_many_and_where(run: str, rest: str) -> None:
    assert started(run) == [*TORCHRUN, *OURS.split(), *shlex.split(rest)]


def test_options_of_python_before_the_launchers_module() -> None:
    words = started("python -u -W ignore -X dev -m torch.distributed.run --nproc-per-node 4 t.py")
    assert words == [PYTHON, *["-u", "-W", "ignore", "-X", "dev", "-m", "torch.distributed.run"], *OURS.split(), "t.py"]
    assert launcher_of("python -W ignore train.py -m torch.distributed.run") is None


def test_a_node_starts_its_own_ranks() -> None:
    words = started("torchrun --nproc-per-node 8 t.py", 4, 1, node=1)
    assert " ".join(words[3:9]) == "--nnodes 2 --nproc-per-node 1 --node-rank 1"


def test_accelerate_is_told_how_many_and_where() -> None:
    run = "accelerate launch --num_processes 8 --multi_gpu --mixed-precision bf16 --main_process_port=7 t.py --cpu"
    where = "--num_machines 2 --machine_rank 1 --main_process_ip 127.0.0.1 --main_process_port 99 --gpu_ids all"
    program = f"{PYTHON} -m accelerate.commands.launch"
    kept = "--multi_gpu --mixed_precision=bf16 t.py --cpu"
    assert " ".join(started(run, 2, 2, node=1)) == f"{program} --num_processes 4 {where} {kept}"
    assert "--multi_gpu" not in started(run, 1)  # accelerate refuses it for one process
    with pytest.raises(InputError, match="the same number of GPUs on each node"):
        started(run, 2, 1)


@pytest.mark.parametrize(
    ("run", "line"),
    [
        ("cd /data && torchrun --nproc-per-node=$N t.py > log 2>&1", "cd /data && torchrun {} t.py > log 2>&1"),
        ("OMP_NUM_THREADS=2 torchrun t.py m=[1,2]", "OMP_NUM_THREADS=2 torchrun {} t.py m=[1,2]"),
        ("python prep.py; torchrun t.py || exit 3", "python prep.py; torchrun {} t.py || exit 3"),
        ("if true; then torchrun t.py; fi", "if true; then torchrun {} t.py; fi"),
    ],
)
def test_a_launcher_in_a_shell_line_is_told_too(run: str, line: str) -> None:
    assert started(run) == ["/bin/sh", "-c", line.format(OURS)]


def test_a_launcher_is_that_of_its_own_path_or_wrapper() -> None:
    assert started("/opt/x/torchrun t.py")[0] == "/opt/x/torchrun"
    assert started("timeout 60 torchrun t.py")[:3] == ["timeout", "60", "torchrun"]
    assert started("uv run torchrun t.py")[:3] == ["uv", "run", "torchrun"]


@pytest.mark.parametrize(
    "run",
    [
        "python train.py",
        "echo torchrun",
        "python torchrun.py",
        "./torchrun.sh x",
        "cat 'a",
        "accelerate test",
        "nice python t.py",
    ],
)
def test_other_lines_start_no_launcher(run: str) -> None:
    assert launcher_of(run) is None


@pytest.mark.parametrize(
    ("run", "what"),
    [
        ("deepspeed --num_gpus 2 t.py", "write torchrun instead"),
        ("mpirun -np 2 python t.py", "rescale: none"),
        ("cd x && horovodrun -np 2 python t.py", "rescale: none"),
        ("srun python t.py", "remove it"),
        ("bash -c 'torchrun t.py'", "write the quoted command"),
        ("torchrun --new-thing x t.py", "--new-thing=VALUE"),
        ("torchrun --nproc-per-node 2", "names no script"),
        ("torchrun a.py; torchrun b.py", "2 launchers"),
        ("accelerate launch t.py", "add --multi_gpu"),
        ("accelerate launch --cpu --num_processes 2 t.py", "write torchrun"),
        ("python -m torch.distributed.launch t.py", "write torchrun"),
        ("python -m deepspeed.launcher.runner t.py", "write torchrun"),
    ],
)
def test_what_cannot_be_told_is_refused_at_submission(run: str, what: str) -> None:
    with pytest.raises(ValidationError) as error:
        spec_of(run=run, rescale="restart", gpus="1..4")
    (found,) = error.value.errors()
    assert what in found["msg"]
    assert found["ctx"]["field"] == "run"
    assert "\n" not in found["msg"]
    spec_of(run=run, rescale="none", gpus=4)  # one process, which may start what it likes


def test_a_count_that_contradicts_the_job_is_refused() -> None:
    spec_of(run="torchrun --nnodes 2 --nproc-per-node 4 t.py", rescale="restart", gpus=8)
    spec_of(run="torchrun --nproc-per-node 4 t.py", rescale="restart", gpus="1..8")
    with pytest.raises(ValidationError, match="asks torchrun for 4 processes, and the job has 2 GPUs"):
        spec_of(run="torchrun --nproc-per-node 4 t.py", rescale="restart", gpus=2)
    with pytest.raises(ValidationError, match=r"run: python t\.py"):
        spec_of(run="torchrun t.py", rescale="in-place", gpus=2)


def test_a_stored_job_that_would_be_refused_today_is_read_and_ends_with_the_reason(tmp_path: Path) -> None:
    spec = spec_of(run="true", rescale="restart", gpus=2)
    text = to_json({**spec.model_dump(mode="json", by_alias=True), "run": "mpirun -np 2 ./t"})
    old = JobSpec.model_validate_json(text, context={"stored": True})
    bench = Bench(tmp_path)
    bench.gangs.apply([order(1, "a0", "a1", spec=old)])
    failed = bench.hear(GangFailed)
    assert failed.final
    assert "cannot tell mpirun" in failed.text
    assert not bench.engine.launches
    bench.gangs.close()


def test_one_launcher_a_node_with_the_batch_in_its_environment(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.engine.play = lambda spec: Script(5)
    spec = spec_of(run="torchrun t.py", rescale="restart", gpus="1..8", batch={"global": 96, "local_max": 10})
    bench.gangs.apply([order(1, "a0", "a3", "b1", spec=spec)])
    bench.hear(Started)
    specs = [bench.engine.specs[name] for name in bench.engine.running()]
    assert [entry.node for entry in specs] == ["a", "b"]
    assert [entry.env["SEES"] for entry in specs] == ["0,3", "1"]
    assert [entry.command[entry.command.index("--nproc-per-node") + 1] for entry in specs] == ["2", "1"]
    assert len({entry.command[entry.command.index("--master-port") + 1] for entry in specs}) == 1
    assert not any(entry.python or "RANK" in entry.env for entry in specs)
    assert {entry.env["POWERFLOW_LOCAL_BATCH"] for entry in specs} == {"8"}  # 3 ranks × 8 samples × 4 passes
    assert {entry.env["POWERFLOW_ACCUMULATION"] for entry in specs} == {"4"}
    assert {entry.env["POWERFLOW_GLOBAL_BATCH"] for entry in specs} == {"96"}
    assert [note.kind for note in bench.told(Noted)] == ["launcher"]
    bench.hear(GangCompleted)
    bench.gangs.close()


def test_a_batch_that_cannot_be_cut_is_said(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.engine.play = lambda spec: Script(1000)
    spec = spec_of(rescale="restart", gpus="1..8", batch={"global": 64})
    bench.gangs.apply([order(1, "a0", "a1", "a2", spec=spec)])
    bench.hear(Started)
    env = bench.engine.specs[bench.engine.running()[0]].env
    assert env["POWERFLOW_GLOBAL_BATCH"] == "64"
    assert "POWERFLOW_LOCAL_BATCH" not in env
    (note,) = bench.told(Noted)
    assert "64 cannot be divided among 3 ranks" in note.text
    bench.gangs.close()


def test_batches_by_hand() -> None:
    assert rank_batch(512, 2, 128) == (128, 2)
    assert rank_batch(512, 1, 128) == (128, 4)
    assert rank_batch(16, 1) == (16, 1)
    assert rank_batch(14, 2, 3) == (1, 7)  # 7 samples each: in passes of equal size, of 1
    assert rank_batch(10, 3) is None


@given(st.integers(1, 5000), st.integers(1, 64), st.none() | st.integers(1, 600))
def test_batches_multiply_out_to_the_global_one(samples: int, ranks: int, local_max: int | None) -> None:
    told = batch_environment(samples, ranks, local_max)
    assert told["POWERFLOW_GLOBAL_BATCH"] == str(samples)
    if samples % ranks:
        assert len(told) == 1
    else:
        local, passes = int(told["POWERFLOW_LOCAL_BATCH"]), int(told["POWERFLOW_ACCUMULATION"])
        assert ranks * local * passes == samples
        assert local <= (local_max or samples)
