"""Readers of totals: windows and tables of Zeus, CodeCarbon."""

from __future__ import annotations

from pathlib import Path

from powerflow.cost.observation import Observation
from powerflow.measured.told import RunFacts, Told
from tests.measured import examples
from tests.measured.reading import near, read, refusal, told


def test_zeus_windows(tmp_path: Path) -> None:
    """Four windows of 0.5 s and 300 J; the first one is warm-up, one has a pause, one is too short to be measured."""
    (seen,), (source,) = read(tmp_path, examples.ZEUS_WINDOWS, told=told(steps=1))
    assert seen == Observation("lm", "A100", 2, 16, 0.5, power_w=600.0)
    assert source.used == 4
    assert source.left_out == {
        "in warm-up": 1,
        "with a pause": 1,
        "too short for the energy counter": 1,
    }


def test_windows_of_zeus_optimizer_keep_their_limit(tmp_path: Path) -> None:
    """40 steps in 20 s with 5 kJ under 300 W; in 40 s with 6 kJ under 150 W. A limit is not a clock."""
    seen, _ = read(tmp_path, examples.ZEUS_OPTIMIZER, told=told(steps=40))
    assert seen == [
        Observation("lm", "A100", 1, 16, 0.5, power_w=250.0, power_limit_w=300.0),
        Observation("lm", "A100", 1, 16, 1.0, power_w=150.0, power_limit_w=150.0),
    ]
    said = refusal(tmp_path, examples.ZEUS_OPTIMIZER)
    assert "give --steps (or --step-time); Zeus' power limit optimizer measures 40 in each window" in said


def test_windows_of_all_ranks_are_joined(tmp_path: Path) -> None:
    other = examples.ZEUS_OPTIMIZER.replace("gpu0", "gpu1").replace("100.0,", "100.01,")
    seen, (source,) = read(tmp_path, examples.ZEUS_OPTIMIZER, other, told=told(steps=40))
    assert [(o.gpus, o.power_w) for o in seen] == [(2, 500.0), (2, 300.0)]
    assert source.notes == ("windows of 2 files at one time are joined, as of the ranks of one job",)
    later = examples.ZEUS_OPTIMIZER.replace("100.0,", "900.0,").replace("130.0,", "930.0,")
    seen, _ = read(tmp_path, examples.ZEUS_OPTIMIZER, later, told=told(steps=40))
    assert [o.gpus for o in seen] == [1, 1, 1, 1]  # another run, of one GPU


def test_windows_in_windows_are_not_counted_twice(tmp_path: Path) -> None:
    nested = examples.ZEUS_WINDOWS + "99.0,epoch,10.0,2000.0,2000.0\n"
    assert "windows 'epoch' and 'step' overlap in time" in refusal(tmp_path, nested, told=told(steps=1))
    runs = [RunFacts("runs.csv:2", window="step", told=Told(steps=1))]
    (seen,), (source,) = read(tmp_path, nested, runs=runs)
    assert seen.step_time_s == 0.5
    assert source.left_out["without a row in --runs"] == 1


def test_zeus_table_of_limits(tmp_path: Path) -> None:
    """1,000 samples in batches of 100 are 10 steps: 5 s and 8 s each."""
    seen, _ = read(tmp_path, examples.ZEUS_LIMITS, told=Told(gpu_type="V100", samples=1000))
    assert seen == [
        Observation("shufflenetv2", "V100", 1, 100, 5.0, power_w=180.0, power_limit_w=250.0),
        Observation("shufflenetv2", "V100", 1, 100, 8.0, power_w=95.0, power_limit_w=100.0),
    ]
    assert "does not tell steps; give --samples" in refusal(tmp_path, examples.ZEUS_LIMITS, told=Told(gpu_type="V100"))
    assert "give --samples" in refusal(tmp_path, examples.ZEUS_LIMITS, told=Told(gpu_type="V100", steps=3))


def test_a_network_on_two_data_sets_is_two_models(tmp_path: Path) -> None:
    text = examples.ZEUS_LIMITS + "imagenet,shufflenetv2,100,adam,250,50.0,180.0\n"
    seen, _ = read(tmp_path, text, told=Told(gpu_type="V100", samples=1000))
    assert {o.model for o in seen} == {"shufflenetv2 (cifar100, adam)", "shufflenetv2 (imagenet, adam)"}


#: Eight ranks of one node, each of which counts all its GPUs: 3.2 kW for an hour.
RANKS = [("2026-01-01T10:00:00", f"rank{r}", 3600.0 - r, 3.2 * (3600.0 - r) / 3600.0) for r in range(8)]


def test_ranks_that_each_count_the_whole_node(tmp_path: Path) -> None:
    (seen,), (source,) = read(tmp_path, examples.codecarbon(RANKS), told=told(steps=7200))
    assert seen == Observation("lm", "A100", 8, 16, 0.5, power_w=near(3200))
    assert source.left_out["that count a node again"] == 7
    assert (
        "8 rows at one time each count all 8 GPUs of a node (a tracker in each rank): counted as 1 node"
        in (source.notes[0])
    )


def test_a_file_of_each_rank(tmp_path: Path) -> None:
    (seen,), _ = read(tmp_path, *(examples.codecarbon([rank]) for rank in RANKS), told=told(steps=7200))
    assert (seen.gpus, seen.power_w) == (8, near(3200))


def test_rows_of_several_nodes_are_added(tmp_path: Path) -> None:
    nodes = [("2026-01-01T10:00:00", f"node{n}", 3600.0, 3.0 + 0.2 * n) for n in range(2)]
    (seen,), _ = read(tmp_path, examples.codecarbon(nodes), told=told(steps=7200, gpus=16, nodes=2))
    assert (seen.gpus, seen.nodes, seen.power_w) == (16, 2, near(6200))
    said = refusal(tmp_path, examples.codecarbon(nodes), told=told(steps=7200))
    assert "3000 to 3200 W: ranks of one node, or several nodes?; give --gpus" in said
    both = [*nodes, *(("2026-01-01T10:00:00", f"again{n}", 3600.0, 3.0 + 0.2 * n) for n in range(2))]
    (seen,), _ = read(tmp_path, examples.codecarbon(both), told=told(steps=7200, gpus=16, nodes=2))
    assert seen.power_w == near(6200)  # two ranks on each node
    assert "keep one row of each node" in refusal(tmp_path, examples.codecarbon(both), told=told(steps=1, gpus=24))


def test_a_run_that_was_flushed_counts_once(tmp_path: Path) -> None:
    rows = [("2026-01-01T09:30:00", "a", 1800.0, 1.5), ("2026-01-01T10:00:00", "a", 3600.0, 3.2)]
    (seen,), (source,) = read(tmp_path, examples.codecarbon(rows), told=told(steps=7200))
    assert seen.power_w == near(3200)
    assert source.left_out["of a run that was flushed later"] == 1


def test_runs_of_a_project_are_told_apart_by_their_id(tmp_path: Path) -> None:
    rows = [("2026-01-01T10:00:00", "a", 3600.0, 3.2), ("2026-01-02T10:00:00", "b", 3600.0, 1.6)]
    assert "holds 2 runs named 'train'" in refusal(tmp_path, examples.codecarbon(rows), told=told(steps=7200))
    runs = [RunFacts("r:2", window="a", told=Told(steps=7200)), RunFacts("r:3", window="b", told=Told(steps=3600))]
    seen, _ = read(tmp_path, examples.codecarbon(rows), runs=runs)
    assert [(o.step_time_s, o.power_w) for o in seen] == [(0.5, near(3200)), (1.0, near(1600))]


def test_a_file_without_energy_of_gpus(tmp_path: Path) -> None:
    text = examples.codecarbon([("2026-01-01T10:00:00", "a", 3600.0, 0.0)])
    assert "holds no run with energy of GPUs" in refusal(tmp_path, text)
    assert "is not one type of GPU" in refusal(
        tmp_path, examples.codecarbon(RANKS).replace("8 x NVIDIA A100-SXM4-80GB", "4 x T4; 4 x V100")
    )
