"""Readers of steps and watts together: Prometheus and W&B."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from powerflow.cost.observation import Observation
from powerflow.measured.formats.format import Hints
from powerflow.measured.told import Told
from tests.measured import examples
from tests.measured.reading import near, read, refusal, told


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
