"""What the pages say of records, worked by hand."""

from __future__ import annotations

import string
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from powerflow.api.governance import BudgetRecord
from powerflow.api.records import GpuRecord, JobRecord, JobState, NodeRecord, Top
from powerflow.dashboard.cluster_map import COLOURS, SIGNS, colour_of, node_tiles
from powerflow.dashboard.gauges import budget_gauges, power_gauge
from powerflow.dashboard.job_rows import MOST_ROWS, running_rows, waiting_rows
from powerflow.dashboard.language import LANGUAGES, preferred, words
from powerflow.dashboard.shown import away, moment

EN = words("en")
TOP = Top(
    time_s=1_790_000_000.0, gpus=8, gpus_busy=4, power_w=4500.0, jobs_power_w=4000.0, energy_j=7.2e6, jobs_energy_j=5e6,
    idle_energy_j=2.2e6, queued=0, running=1, held=0, policy="prices", energy_price=0.0, budget="", emulated=False,
    jobs=(),
)  # fmt: skip
BUDGET = BudgetRecord(
    project="", amount_j=3.6e8, period="day", zone="UTC", window="2026-11-28", start_s=0.0, end_s=1_790_035_200.0,
    spent_j=0.9e8, share=0.25, forecast_j=2.7e8, price=0.0, limit_w=5000.0, limited=False, knows_days=True, bias=1.0,
    outlook=(), by="ops", set_s=0.0,
)  # fmt: skip
JOB = JobRecord("7", "vit", "ada", "vision", JobState.RUNNING, "normal", "none", 1_789_999_000.0)


def gpu(index: int, job_id: str | None = None, out: str = "") -> GpuRecord:
    return GpuRecord(index, f"GPU-{index}", job_id, 270.4, 1410.0, None, None, out=out)


# --- the map ------------------------------------------------------------------------------------------------------


def test_a_tile_says_the_job_the_clock_and_the_watts_of_its_gpu() -> None:
    node = NodeRecord("n1", "A100", "up", [gpu(0, "7"), gpu(1), gpu(2, out="ECC errors")], False)
    (tile,) = node_tiles([node], EN)
    assert (tile.sign, tile.label, tile.power) == ("●", "up", "811 W"), "3 × 270.4 W"
    job, idle, out = tile.gpus
    assert (job.state, job.label, job.clock, job.power) == ("job", "7", "1410 MHz", "270 W")
    assert job.title == "GPU 0 of n1: job 7"
    assert (idle.state, idle.label, idle.colour) == ("idle", "idle", 0)
    assert (out.state, out.label) == ("out", "out of service")
    assert "ECC errors" in out.title


@pytest.mark.parametrize("state", ["asleep", "unreachable", "failed"])
def test_a_node_that_is_away_shows_it_on_every_gpu_also_on_those_that_jobs_hold(state: str) -> None:
    (tile,) = node_tiles([NodeRecord("n1", "A100", state, [gpu(0, "7"), gpu(1)], False)], EN)
    assert [one.state for one in tile.gpus] == [state, state]
    assert tile.gpus[0].job == "7", "its ranks may run"
    assert tile.gpus[1].label == EN[f"gpu_{state}"]


def test_no_two_states_of_a_node_have_the_same_sign_or_word() -> None:
    assert len(set(SIGNS.values())) == len(SIGNS)
    assert len({EN[f"node_{state}"] for state in SIGNS}) == len(SIGNS)


def test_what_is_not_known_is_not_shown_as_a_number() -> None:
    unknown = replace(gpu(0), power_w=None, clock_mhz=None)
    (tile,) = node_tiles([NodeRecord("n1", "A100", "up", [unknown], False)], EN)
    assert (tile.power, tile.gpus[0].clock, tile.gpus[0].power) == ("–", "", "")


def test_nine_jobs_in_a_row_have_nine_colours() -> None:
    assert {colour_of(str(number)) for number in range(31, 31 + COLOURS)} == set(range(1, COLOURS + 1))
    assert colour_of(None) == 0


# --- power and energy ---------------------------------------------------------------------------------------------


def test_power_is_shown_against_the_cap() -> None:
    found = power_gauge(replace(TOP, cap_w=6000.0), EN)
    assert (found.value, found.of, found.share, found.over) == ("4.5 kW", "of 6 kW allowed by power caps", 0.75, False)
    assert found.notes == ["jobs 4 kW, idle GPUs 500 W"]


def test_power_above_the_cap_is_said_in_words() -> None:
    found = power_gauge(replace(TOP, cap_w=4000.0), EN)
    assert (found.of, found.share, found.over) == ("500 W above the cap of 4 kW", 1.125, True)


def test_without_a_cap_nothing_is_measured_against_one() -> None:
    found = power_gauge(TOP, EN)
    assert (found.share, found.of) == (None, "no power cap holds for the whole cluster")


def test_a_budget_is_shown_with_the_forecast_to_the_end_of_its_window() -> None:
    (found,) = budget_gauges(TOP, [BUDGET], EN)
    assert (found.name, found.value, found.of) == ("Energy budget", "25 kWh", "of 100 kWh used, 2026-11-28")
    assert (found.share, found.expected, found.over) == (0.25, 0.75, False)
    assert found.notes == [f"75 kWh expected by {moment(BUDGET.end_s)}, 75\u202f% of the budget"]


def test_a_budget_that_will_not_last_is_marked_and_one_that_limits_jobs_says_so() -> None:
    found, other = budget_gauges(
        TOP, [replace(BUDGET, forecast_j=4e8), replace(BUDGET, project="nlp", limited=True)], EN
    )
    assert found.over
    assert (other.name, other.over) == ("Energy budget of nlp", False)
    assert other.notes[-1] == "it limits jobs now, to 5 kW"


def test_a_budget_ends_in_the_time_zone_in_which_it_was_set() -> None:
    (found,) = budget_gauges(TOP, [replace(BUDGET, zone="Asia/Tokyo", end_s=1_790_002_800.0)], EN)
    assert "2026-09-22 00:00 Asia/Tokyo" in found.notes[0], "15:00 UTC is midnight there"


# --- jobs ---------------------------------------------------------------------------------------------------------


def test_a_running_job_says_how_far_it_is_and_when_it_ends() -> None:
    job = replace(
        JOB, gpus=2, gpus_asked="1..4", clock_mhz=1410.0, clock_read_mhz=1395.0, power_w=520.0, energy_j=7.2e4,
        progress=0.4999, eta_s=TOP.time_s + 5400, emulated=True, local_batch=32, accumulation=2,
    )  # fmt: skip
    (row,) = running_rows([job], TOP.time_s, EN)
    assert (row.gpus, row.clock, row.power, row.energy) == ("2 of 1..4", "1395 MHz", "520 Wᵉ", "0.02 kWhᵉ")
    assert (row.progress_said, row.when) == ("49\u202f%", "in 1.5 h"), "a job is not at 50 % before it is"
    assert row.batch == "32 × 2"
    assert row.when_at == "2026-09-21T15:43:20Z"
    assert not waiting_rows([job], TOP.time_s, EN)


def test_a_job_that_waits_says_what_for_and_since_when() -> None:
    job = replace(JOB, state=JobState.QUEUED, reason="waits for budget", gpus_asked="8", project="")
    (row,) = waiting_rows([job], TOP.time_s, EN)
    assert (row.why, row.gpus, row.when, row.owner, row.colour) == ("waits for budget", "8", "16.7 min ago", "ada", 0)


def test_a_held_job_whose_processes_are_ending_is_among_those_that_run() -> None:
    job = replace(JOB, state=JobState.HELD, completing=True)
    (row,) = running_rows([job], TOP.time_s, EN)
    assert row.state == "completing"


def test_a_table_is_never_longer_than_its_limit() -> None:
    jobs = [replace(JOB, id=str(number)) for number in range(MOST_ROWS + 5)]
    assert len(running_rows(jobs, TOP.time_s, EN)) == MOST_ROWS


@given(st.floats(-1e12, 1e12))
def test_any_time_can_be_written(seconds: float) -> None:
    assert away(seconds, EN)
    assert moment(seconds)


# --- languages ----------------------------------------------------------------------------------------------------


def test_every_language_has_the_same_words_with_the_same_fields() -> None:
    def fields(text: str) -> set[str | None]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}

    for language in LANGUAGES:
        assert {key: fields(text) for key, text in words(language).items()} == {
            key: fields(text) for key, text in EN.items()
        }


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("ja-JP,ja;q=0.9,en;q=0.5", "ja"),
        ("en-GB,en;q=0.9,ja;q=0.8", "en"),
        ("de,ja;q=0.3", "ja"),
        ("de-DE", "en"),
        ("ja;q=nonsense", "en"),
    ],
)
def test_the_language_is_the_one_that_the_browser_prefers(header: str, language: str) -> None:
    assert preferred(header) == language
