"""Each reader, on a small file whose steps, watts and clocks are known: what is training is found, the rest counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from powerflow.cost.observation import Observation, observations_of
from powerflow.errors import InputError
from powerflow.measured.formats.format import Hints
from powerflow.measured.read import read_measured
from powerflow.measured.source import MeasuredSource
from powerflow.measured.told import RunFacts, Told, read_runs
from tests.measured import examples

PLAIN = Hints()
LM = Told(model="lm", gpu_type="A100", local_batch=16)


def read(
    folder: Path, *texts: str, told: Told = LM, runs: Sequence[RunFacts] = (), hints: Hints = PLAIN
) -> tuple[list[Observation], list[MeasuredSource]]:
    """Read files with these contents; they are named 0, 1, …"""
    files = []
    for number, text in enumerate(texts):
        files.append(folder / str(number))
        files[-1].write_text(text, encoding="utf-8")
    found = read_measured(files, told, runs, hints)
    return observations_of(found.rows), list(found.sources)


def near(value: float) -> Any:
    return pytest.approx(value, rel=1e-4)  # the rows of two GPUs are 2 ms apart


def told(**facts: object) -> Told:
    return Told(**facts).over(LM)  # type: ignore[arg-type]


def refusal(folder: Path, *texts: str, **options: object) -> str:
    with pytest.raises(InputError) as error:
        read(folder, *texts, **options)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    return str(error.value)


# --- nvidia-smi and dcgmi: no step counter -----------------------------------------------------------------------


@pytest.mark.parametrize("units", [True, False])
def test_nvidia_smi(tmp_path: Path, units: bool) -> None:
    """35 intervals of 300 W follow 5 slow ones and 20 idle ones; the interval between two kinds belongs to none."""
    only = Told(model="lm", local_batch=16, step_time_s=0.5)  # the GPU type and their number are in the file
    (seen,), (source,) = read(tmp_path, examples.nvidia_smi(units=units), told=only)
    assert seen == Observation("lm", "A100", 2, 16, 0.5, clock_mhz=1410.0, power_w=near(600))
    assert source.left_out == {"idle": 20, "in warm-up": 4}
    assert source.used == 59 - 24


def test_gpus_of_the_node_that_idle_are_left_out(tmp_path: Path) -> None:
    lines = examples.nvidia_smi().splitlines()
    idle = [line for line in lines if ", 0, NVIDIA" in line]
    others = [
        line.replace(", 0, NVIDIA", f", {gpu}, NVIDIA").replace("300.00", "58.00").replace("1410", "210")
        .replace("97 %", "0 %") for line in idle for gpu in (2, 3)
    ]  # fmt: skip
    (seen,), (source,) = read(tmp_path, "\n".join([*lines, *others]), told=told(step_time_s=0.5))
    assert (seen.gpus, seen.clock_mhz, seen.power_w) == (2, 1410.0, near(600))
    assert "idle GPUs are left out: 2, 3" in source.notes


def test_steps_are_divided_over_the_time_in_which_gpus_work(tmp_path: Path) -> None:
    """Between the first and the last reading of working GPUs are 39 s; 78 steps are 0.5 s each, and this is said."""
    (seen,), (source,) = read(tmp_path, examples.nvidia_smi(), told=told(steps=78))
    assert seen.step_time_s == near(0.5)
    assert "divided over warm-up" in source.notes[0]


def test_a_file_of_one_gpu_needs_no_index(tmp_path: Path) -> None:
    def without_index(text: str) -> str:
        return "\n".join(", ".join(line.split(", ")[:1] + line.split(", ")[2:]) for line in text.splitlines())

    (seen,), _ = read(tmp_path, without_index(examples.nvidia_smi(gpus=("0",))), told=told(step_time_s=0.5))
    assert (seen.gpus, seen.power_w) == (1, near(300))
    assert "several GPUs" in refusal(tmp_path, without_index(examples.nvidia_smi()), told=told(step_time_s=0.5))


@pytest.mark.parametrize("word", ["[N/A]", "[Not Supported]", "N/A", "[Unknown Error]"])
def test_what_a_card_does_not_report_is_missing_not_zero(tmp_path: Path, word: str) -> None:
    text = examples.nvidia_smi().replace("1410 MHz", word)
    (seen,), _ = read(tmp_path, text, told=told(step_time_s=0.5))
    assert seen.clock_mhz is None
    assert seen.power_limit_w == 400.0  # without a clock, the limit counts
    assert "has no value" in refusal(tmp_path, examples.nvidia_smi().replace("300.00 W", word).replace("200.00 W", word)
                                     .replace("60.00 W", word), told=told(step_time_s=0.5))  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("power.draw [W]", "power.draw [BTU]", None),  # the value has its own unit
        ("300.00 W", "300.00 BTU", "the unit of power.draw [W] is 'BTU'"),
        ("300.00 W", "300,00 W", "rows cannot be read"),
        ("power.draw [W]", "memory.used [MiB]", "has no column power.draw"),
        ("timestamp", "pstate", "has no column timestamp; add timestamp to --query-gpu, or give --interval"),
        ("2026/01/01", "01.01.2026", "rows cannot be read"),
        (", NVIDIA A100-SXM4-80GB, 300", ", Tesla T4, 300", "GPUs of several types"),
    ],
)
def test_nvidia_smi_with_other_columns(tmp_path: Path, old: str, new: str, why: str | None) -> None:
    text = examples.nvidia_smi().replace(old, new)
    if why is None:
        assert read(tmp_path, text, told=told(step_time_s=0.5))[0][0].power_w == near(600)
    else:
        assert why in refusal(tmp_path, text, told=told(step_time_s=0.5))


def test_a_unit_is_never_guessed(tmp_path: Path) -> None:
    text = examples.nvidia_smi(units=False).replace("power.draw [W]", "power.draw")
    assert "power.draw has no unit" in refusal(tmp_path, text, told=told(step_time_s=0.5))


def test_a_torn_line_is_counted(tmp_path: Path) -> None:
    _, (source,) = read(tmp_path, examples.nvidia_smi()[:-30], told=told(step_time_s=0.5))
    assert source.left_out["that cannot be read"] == 1


@pytest.mark.parametrize("times", [True, False])
def test_dcgmi_dmon(tmp_path: Path, times: bool) -> None:
    hints = Hints() if times else Hints(interval_s=1.0)
    (seen,), (source,) = read(tmp_path, examples.dcgmi(times=times), told=told(step_time_s=0.5), hints=hints)
    assert seen == Observation("lm", "A100", 2, 16, 0.5, clock_mhz=1410.0, power_w=near(600))
    assert source.left_out == {"idle": 20, "in warm-up": 4}


def test_dcgmi_dmon_has_no_times(tmp_path: Path) -> None:
    assert "give --interval SECONDS: the -d of dcgmi dmon" in refusal(tmp_path, examples.dcgmi(), told=LM)


def test_a_unit_that_dcgm_prints_counts(tmp_path: Path) -> None:
    text = examples.dcgmi().replace("  W   ", "  kBTU", 1)
    assert "the unit of POWER is 'kBTU'" in refusal(tmp_path, text, told=LM, hints=Hints(interval_s=1.0))


def test_idle_gpus_are_told_by_the_types_draw_where_the_utilisation_is_not_read(tmp_path: Path) -> None:
    text = examples.nvidia_smi().replace("utilization.gpu [%]", "pstate")
    (seen,), (source,) = read(tmp_path, text, told=told(step_time_s=0.5))
    assert seen.power_w == near(600)
    assert source.left_out["idle"] == 20  # an idle A100 draws 60 W
    assert "all GPUs in it are taken as the run's" in source.notes[-1]
    assert "cannot be told from training" in refusal(tmp_path, text, told=told(step_time_s=0.5, gpu_type="Z99"))


# --- Prometheus and W&B: steps and watts together ----------------------------------------------------------------


def test_prometheus(tmp_path: Path) -> None:
    """A step counter tells the evaluation, which the utilisation does not."""
    only = Told(model="lm", local_batch=16)
    (seen,), (source,) = read(tmp_path, examples.prometheus(), told=only)
    assert seen == Observation("lm", "A100", 2, 16, near(0.5), clock_mhz=1410.0, power_w=near(600))
    assert source.used == 2 + 12 - 1  # of 5 s each; the one that begins the second phase begins in the evaluation
    assert sum(source.left_out.values()) == 3


def test_prometheus_in_a_file_for_each_metric(tmp_path: Path) -> None:
    both = examples.prometheus().splitlines()
    (seen,), (source,) = read(tmp_path, *both)
    assert (seen.gpus, seen.nodes, seen.power_w) == (2, 1, near(600))
    assert "train_steps_total counts the steps" in source.notes


def test_the_step_counter_can_be_named(tmp_path: Path) -> None:
    text = examples.prometheus().replace("train_steps_total", "my_steps")
    assert "does not tell steps; give --steps" in refusal(tmp_path, text)
    (seen,), _ = read(tmp_path, text, hints=Hints(step_metric="my_steps"))
    assert seen.step_time_s == near(0.5)
    assert "has no 'other' that counts" in refusal(tmp_path, text, hints=Hints(step_metric="other"))
    assert "has a step counter" in refusal(tmp_path, examples.prometheus(), told=told(steps=10))


def test_counters_of_all_ranks_are_one_counter(tmp_path: Path) -> None:
    first = examples.prometheus()
    again = examples.matrix(*(examples.answer("train_steps_total", examples.steps, rank=str(r)) for r in range(3)))
    (seen,), (source,) = read(tmp_path, first.splitlines()[0] + again)
    assert seen.step_time_s == near(0.5)
    assert "the longest of 3 series" in source.notes[0]
    other = examples.matrix(
        examples.answer("train_steps_total", examples.steps, rank="0"),
        examples.answer("train_steps_total", lambda s: 2 * examples.steps(s), rank="1"),
    )
    assert "series that count differently" in refusal(tmp_path, first.splitlines()[0] + other)
    named = examples.matrix(examples.answer("global_step", examples.steps))
    assert "several step counters" in refusal(tmp_path, first + named)


def test_clocks_in_one_run_are_told_apart(tmp_path: Path) -> None:
    """100 s at 1410 MHz, 0.5 s and 300 W a step; then 100 s at 990 MHz, 0.625 s and 200 W."""

    def clock(second: int) -> float:
        return 1410.0 if second <= 100 else 990.0

    def made(second: int) -> int:
        return int(min(second, 100) / 0.5 + max(second - 100, 0) / 0.625)

    def joules(second: int) -> float:
        return 1000 * (300.0 * min(second, 100) + 200.0 * max(second - 100, 0))

    text = examples.matrix(
        examples.answer("DCGM_FI_DEV_SM_CLOCK", clock, 200, UUID="GPU-1"),
        examples.answer("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", joules, 200, UUID="GPU-1"),
        examples.answer("train_step", made, 200),
    )
    seen, _ = read(tmp_path, text)
    assert [(o.clock_mhz, o.step_time_s, o.power_w) for o in seen] == [
        (1410.0, near(0.5), near(300)),
        (990.0, near(0.625), near(200)),
    ]


@pytest.mark.parametrize(("step_s", "within"), [(0.35, 0.002), (22.0, 0.01), (70.0, 0.03)])
def test_two_hours_with_evaluations_and_an_exporter_that_is_late(tmp_path: Path, step_s: float, within: float) -> None:
    """A scrape every 15 s of readings that are up to 30 s old; 90 s of every 20 min are an evaluation at 186 W."""
    rng = np.random.default_rng(0)
    at = np.arange(7200)
    evaluates = (at - 300) % 1200 >= 1110
    trains = (at >= 300) & ~evaluates
    watts = np.where(trains, 310.0 * (1 + rng.normal(0, 0.05, len(at))), np.where(at < 300, 70.0, 186.0))
    pace = np.where(at < 420, 0.5, 1.0) * (1 + rng.normal(0, 0.02, len(at))) / step_s
    steps, joules = np.cumsum(np.where(trains, pace, 0.0)), np.cumsum(watts)

    def scraped(name: str, of: Callable[[int], object], **labels: str) -> dict[str, object]:
        values = [[examples.START_S + second, str(of(second))] for second in range(0, len(at), 15)]
        return {"metric": {"__name__": name, **labels}, "values": values}

    text = examples.matrix(
        scraped("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", lambda s: int(1000 * joules[s // 30 * 30]), UUID="GPU-1"),
        scraped("DCGM_FI_DEV_POWER_USAGE", lambda s: watts[s // 30 * 30], UUID="GPU-1"),
        scraped("train_step", lambda s: int(steps[s])),
    )
    (seen,), (source,) = read(tmp_path, text)
    assert seen.step_time_s == pytest.approx(step_s, rel=within)
    assert seen.power_w == pytest.approx(310.0, rel=0.02)
    assert source.left_out["with a pause or a gap"] >= 4


def test_a_counter_in_another_unit_is_seen(tmp_path: Path) -> None:
    joules_for_millijoules = examples.matrix(
        examples.answer("DCGM_FI_DEV_POWER_USAGE", examples.watts, UUID="GPU-1"),
        examples.answer("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", examples.joules, UUID="GPU-1"),
        examples.answer("train_step", examples.steps),
    )
    assert "draws 300 W, but its energy counter says 0.3 W" in refusal(tmp_path, joules_for_millijoules)


def test_a_reset_of_the_energy_counter_costs_one_interval(tmp_path: Path) -> None:
    text = examples.matrix(
        examples.answer(
            "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
            lambda s: 1000 * (examples.joules(s) - (examples.joules(120) if s >= 120 else 0)),
            UUID="GPU-1",
        ),
        examples.answer("train_step", examples.steps),
    )
    (seen,), _ = read(tmp_path, text)
    assert seen.power_w == near(300)


def test_series_that_follow_each_other_and_those_of_two_scrapers(tmp_path: Path) -> None:
    """A GPU's series changes its labels at 100 s; a second scraper of it, 15 s behind, is left out."""

    def part(of: Callable[[int], float], first: int, last: int, **labels: str) -> dict[str, object]:
        series = examples.answer("DCGM_FI_DEV_GPU_ENERGY_JOULES_TOTAL", of, UUID="GPU-1", **labels)
        times = (examples.START_S + first, examples.START_S + last)
        return {**series, "values": [v for v in series["values"] if times[0] <= v[0] <= times[1]]}  # type: ignore[attr-defined]

    text = examples.matrix(
        part(examples.joules, 0, 95, pod="one"),
        part(examples.joules, 100, 160, pod="two"),
        part(lambda s: examples.joules(max(s - 15, 0)), 15, 80, prometheus="second"),
        examples.answer("train_step", examples.steps),
    )
    (seen,), _ = read(tmp_path, text)
    assert (seen.gpus, seen.power_w) == (1, near(300))


def test_a_job_that_resumes_at_a_checkpoint_does_not_run_fast(tmp_path: Path) -> None:
    text = examples.matrix(
        examples.answer("DCGM_FI_DEV_POWER_USAGE", examples.watts, UUID="GPU-1"),
        examples.answer("train_step", lambda s: examples.steps(s) + (100_000 if s > 120 else 0)),
    )
    (seen,), (source,) = read(tmp_path, text)
    assert seen.step_time_s == near(0.5)
    assert source.left_out["with a jump of the step counter"] == 1


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('"matrix"', '"vector"', "is a 'vector', not a range of times"),
        ('"success"', '"error", "error": "query timed out"', "is an error of Prometheus: 'query timed out'"),
        ('"__name__": "DCGM_FI_DEV_POWER_USAGE", ', "", "query the metric itself, without rate()"),
        ('"UUID": "GPU-0", ', '"GPU_I_ID": "1", ', "is of a slice of a GPU (MIG)"),
        ('"gpu": "0", "UUID": "GPU-0", ', "", "has no label UUID or gpu"),
        ("NVIDIA A100-SXM4-80GB", "NVIDIA A40", None),
        ('"300.0"', '"fast"', "a value is not a number ('fast')"),
        ('"values"', '"value"', "does not tell the number of GPUs and steps"),
    ],
)
def test_answers_of_prometheus_that_are_not_what_is_needed(tmp_path: Path, old: str, new: str, why: str | None) -> None:
    text = examples.prometheus().replace(old, new)
    if why is None:  # the user's word counts for the type
        assert read(tmp_path, text)[0][0].gpu_type == "A100"
    else:
        assert why in refusal(tmp_path, text)


def test_wandb_history_and_events(tmp_path: Path) -> None:
    """The GPU that the run does not use is left out; the script's own counter counts, not the calls of wandb.log."""
    (seen,), (source,) = read(tmp_path, examples.wandb_history(), examples.wandb_events())
    assert seen == Observation("lm", "A100", 2, 16, near(0.5), clock_mhz=1410.0, power_w=near(600))
    assert source.notes == ("train/global_step counts the steps", "GPUs 2 are not used by the run: left out")
    assert source.left_out == {"with a pause or a gap": 1}


def test_wandb_json_lines(tmp_path: Path) -> None:
    (seen,), (source,) = read(tmp_path, examples.wandb_jsonl())
    assert (seen.gpus, seen.step_time_s, seen.power_w) == (1, near(0.5), near(300))
    assert "name the script's own counter with --step-metric" in source.notes[0]


def test_a_run_of_several_nodes_has_the_gpus_of_the_first_one(tmp_path: Path) -> None:
    files = (examples.wandb_history(), examples.wandb_events())
    (seen,), (source,) = read(tmp_path, *files, told=told(gpus=16, nodes=8))
    assert (seen.gpus, seen.nodes, seen.power_w) == (16, 8, near(16 * 300))
    assert "watts of 2 of 16 GPUs were read: their mean is used for all" in source.notes
    assert "2 GPUs worked, but 1 are said" in refusal(tmp_path, *files, told=told(gpus=1))


def test_steps_of_one_tool_and_watts_of_another(tmp_path: Path) -> None:
    watts = examples.prometheus().splitlines()[0]
    (seen,), _ = read(tmp_path, examples.wandb_history(), watts)
    assert (seen.gpus, seen.step_time_s, seen.power_w) == (2, near(0.5), near(600))
    assert "has the power of GPUs, and so has" in refusal(tmp_path, examples.wandb_events(), examples.prometheus())
    assert "has a step counter, and so has" in refusal(tmp_path, examples.wandb_history(), examples.prometheus())


def test_local_times_need_a_zone_beside_others(tmp_path: Path) -> None:
    files = (examples.wandb_history(), examples.nvidia_smi())
    assert "give --tz ZONE for local times" in refusal(tmp_path, *files)
    later = examples.wandb_history().replace(str(examples.START_S)[:6], "000000")
    assert "cover less than 50% of the training" in refusal(tmp_path, later, files[1], hints=Hints(zone="UTC"))


def test_steps_without_watts_give_times_alone(tmp_path: Path) -> None:
    (seen,), (source,) = read(tmp_path, examples.wandb_history(), told=told(gpus=2))
    assert (seen.step_time_s, seen.power_w) == (near(0.5), None)
    assert "no watts" in source.notes
    assert "does not tell the number of GPUs; give --gpus" in refusal(tmp_path, examples.wandb_history())


# --- totals ------------------------------------------------------------------------------------------------------


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


# --- the table of runs -------------------------------------------------------------------------------------------


def runs_of(folder: Path, text: str) -> list[RunFacts]:
    path = folder / "runs.csv"
    path.write_text(text)
    return read_runs(path)


def test_runs_say_what_each_file_does_not(tmp_path: Path) -> None:
    runs = runs_of(tmp_path, "files,gpus,local_batch,steps\n0,1,32,40\n1,2,16,80\n")
    later = examples.ZEUS_OPTIMIZER.replace("gpu0_energy", "gpu0_energy,gpu1_energy").replace("00.0\n", "00.0,5000.0\n")
    seen, sources = read(tmp_path, examples.ZEUS_OPTIMIZER, later, runs=runs)
    assert [(o.gpus, o.local_batch, o.step_time_s) for o in seen] == [
        (1, 32, 0.5),
        (1, 32, 1),
        (2, 16, 0.25),
        (2, 16, 0.5),
    ]
    assert len(sources) == 2


def test_runs_are_parts_of_one_recording(tmp_path: Path) -> None:
    """The second at which a part begins and ends is written as the file writes it, or since 1970."""
    runs = runs_of(
        tmp_path,
        "start,end,local_batch,step_time_s\n2026/01/01 00:00:26,2026-01-01 00:00:40,16,0.5\n"
        "2026-01-01T00:00:40,2026/01/01 00:00:59.5,16,0.5\n",
    )
    seen, _ = read(tmp_path, examples.nvidia_smi(), runs=runs)
    assert [o.power_w for o in seen] == [near(600)] * 2
    runs = [RunFacts("r:2", start=str(examples.START_S + 105))]
    (one,), _ = read(tmp_path, examples.prometheus(), runs=runs)
    assert one.step_time_s == near(0.5)
    runs = [RunFacts("r:2", start="2026-01-01T00:01:45")]
    assert "has no time zone; write" in refusal(tmp_path, examples.prometheus(), runs=runs)
    runs = [RunFacts("r:2", start="105")]
    assert "'105' is no date" in refusal(tmp_path, examples.nvidia_smi(), told=told(step_time_s=0.5), runs=runs)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("gpu,steps\n1,1\n", "runs.csv:1: unknown column 'gpu'; columns are files, window"),
        ("gpus,steps\n0,1\n", "runs.csv:2: gpus is not a whole number above 0 ('0')"),
        ("gpus,step_time_s\n1,-2\n", "runs.csv:2: step_time_s is not above 0 ('-2')"),
        ("gpus,steps\n", "runs.csv: holds no run"),
        ("gpus,steps\n1\n", "runs.csv: has a row that does not fit the header"),
        ("", "runs.csv: holds no run"),
    ],
)
def test_a_slip_in_the_table_of_runs(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(InputError) as error:
        runs_of(tmp_path, text)
    assert why in str(error.value)


def test_rows_of_runs_that_fit_nothing(tmp_path: Path) -> None:
    runs = [RunFacts("r:2", files=("9",))]
    assert "'9' is not among the files" in refusal(tmp_path, examples.ZEUS_OPTIMIZER, runs=runs)
    runs = [RunFacts("r:2", window="stepp")]
    assert "no window or run is named 'stepp'; there are 'step'" in refusal(tmp_path, examples.ZEUS_WINDOWS, runs=runs)
    runs = [RunFacts("r:2", files=("0",)), RunFacts("r:3", files=("0",))]
    assert "'step' is also of the row r:2" in refusal(tmp_path, examples.ZEUS_WINDOWS, runs=runs)
    runs = [RunFacts("r:2", files=("0",))]
    assert "no row of --runs is for it" in refusal(tmp_path, examples.prometheus(), examples.wandb_events(), runs=runs)
    points = "model,gpu_type,gpus,local_batch,step_time_s\nlm,A100,1,16,0.5\n"
    assert "--model: a table of observations says this itself" in refusal(tmp_path, points)
