"""Numbers as people read them, and sentences that follow the numbers whichever way they turned out."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow import units
from powerflow.report import headline, rows, words
from powerflow.simulate.comparison import Comparison, EqualEnergyRow
from tests.report.factories import comparison, estimate, metrics, without


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (42, "42 s"),
        (90, "1.5 min"),
        (5400, "1.5 h"),
        (6840, "1.9 h"),
        (12 * 3600, "12 h"),
        (72 * 3600, "3 days"),
        (1e9, "11\u202f574 days"),
        (math.nan, "–"),
        (math.inf, "–"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert units.duration(seconds) == text


@pytest.mark.parametrize(
    ("joules", "text"),
    [(39, "39 J"), (3.6e6, "1 kWh"), (412 * 3.6e6, "412 kWh"), (7.2e10, "20 MWh"), (3.6e14, "100 GWh"), (0, "0 J")],
)
def test_energies(joules: float, text: str) -> None:
    assert units.energy(joules) == text


def test_power_and_shares() -> None:
    assert units.power(270) == "270 W"
    assert units.power(41_230) == "41.2 kW"
    assert units.power(1.3e6) == "1.3 MW"
    assert units.percent(0.8) == "80\u202f%"
    assert units.percent(0.047) == "4.7\u202f%"


@settings(max_examples=200, deadline=None)
@given(st.floats(1e-6, 1e12))
def test_three_significant_digits_are_kept(value: float) -> None:
    read = float(units.significant(value).replace("\u202f", ""))
    assert read == pytest.approx(value, rel=5.1e-3)


def small(rows_: list[EqualEnergyRow]) -> Comparison:
    return without(comparison(["fifo", "prices"]), rows=rows_, levels=sorted({row.level for row in rows_}))


def row(policy: str, level: float, jct_s: float | None, vs_bound: float | None = None) -> EqualEnergyRow:
    if jct_s is None:
        return EqualEnergyRow(policy, level, level * 3.6e8, None, None, None)
    bound = None if vs_bound is None else estimate(vs_bound)
    numbers = {"jct_mean_s": estimate(metrics(jct_s, 1.0).jct_mean_s)}
    return EqualEnergyRow(policy, level, level * 3.6e8, numbers, None, bound)


def test_the_headline_takes_the_lowest_energy_at_which_ours_is_no_slower() -> None:
    told = headline.headline(
        small([row("fifo", 1.0, 7200), row("prices", 1.0, 3600), row("prices", 0.8, 7000), row("prices", 0.7, 9000)])
    )
    assert told == (
        "At 80\u202f% of FIFO's energy, PowerFlow's “prices” finishes jobs on average in 1.94 h; "
        "FIFO needs 2 h at 100\u202f%."
    )


def test_the_headline_says_it_when_ours_is_slower() -> None:
    slower = small([row("fifo", 1.0, 3600), row("prices", 1.0, 7200), row("prices", 0.8, 9000)])
    assert headline.headline(slower).startswith(
        "At 100\u202f% of FIFO's energy, PowerFlow's “prices” finishes jobs on average in 2 h"
    )
    assert "FIFO needs 1 h" in headline.headline(slower)
    assert any(figure.meaning.startswith("longer") for figure in headline.key_figures(slower))
    assert (
        headline.standfirst(slower)
        == "Another policy is faster at this energy: FIFO takes 60 min at the same energy, 0.5 times as long."
    )


def test_the_headline_without_ours_or_without_reference() -> None:
    other = without(comparison(["srtf"]), rows=[row("srtf", 0.9, 3600)], levels=[0.9])
    assert headline.headline(other) == "At 90\u202f% of FIFO's energy, SRTF finishes jobs on average in 60 min."
    unable = small([row("fifo", 1.0, None), row("prices", 1.0, None)])
    assert headline.headline(unable).startswith("No policy reached")
    assert headline.key_figures(unable) == []


def test_the_bound_is_told_as_a_distance() -> None:
    bounded = small([row("fifo", 1.0, 7200), row("prices", 1.0, 3600, vs_bound=1.2)])
    assert "PowerFlow's “prices” is within 20\u202f% of a proven bound" in headline.standfirst(bounded)
    assert "20\u202f%" in [figure.value for figure in headline.key_figures(bounded)]


def test_the_table_orders_by_speed_and_names_who_cannot() -> None:
    table = rows.equal_energy(comparison())
    assert [level.share for level in table.levels] == ["100\u202f%", "90\u202f%", "80\u202f%", "70\u202f%"]
    last = table.levels[-1]
    assert [line.policy for line in last.lines] == ["prices", "greedy"]
    assert last.unable == ["FIFO", "SRTF", "Tiresias", "Gandiva", "AFS-L", "Optimus", "Pollux"]
    assert [line.ours for line in last.lines] == [True, False]
    assert all(len(line.cells) == len(table.columns) for level in table.levels for line in level.lines)
    assert last.lines[0].cells[-2].text == "1.00"
    assert last.lines[0].cells[0].interval == "±\u202f0.076"


def test_one_seed_has_no_interval() -> None:
    table = rows.equal_energy(comparison(seeds=1))
    assert {cell.interval for level in table.levels for line in level.lines for cell in line.cells} == {""}


def test_folders_are_cut_and_nothing_else() -> None:
    assert words.without_folders("/home/a/b.csv") == "b.csv"
    assert words.without_folders("from ~/x/y.csv, 3/4 of it") == "from y.csv, 3/4 of it"
    for kept in ("16x8:A100", "iterations/s", "1/2/4", "a/b.csv", "https://example.org/a/b", "time / energy"):
        assert words.without_folders(kept) == kept


def test_labels_keep_overlays_and_foreign_names() -> None:
    assert words.label("srtf+clock:1005") == "SRTF+clock:1005"
    assert words.label("pollux") == "Pollux"
    assert words.label("prices") == "prices"
    assert words.label("mine:0.3") == "mine:0.3"


def test_facts_say_how_many_seeds() -> None:
    assert "3 seeds" in headline.how_compared(comparison())["Seeds"]
    assert "no interval" in headline.how_compared(comparison(seeds=1))["Seeds"]
    assert headline.how_compared(replace(comparison(), frontiers=[]))["Seeds"]


def test_names_of_policies_read_as_names_in_a_sentence() -> None:
    assert [words.named(name) for name in ("fifo", "srtf+clock:1005", "afs", "gandiva:30", "optimus")] == [
        "FIFO",
        "SRTF+clock:1005",
        "AFS-L",
        "Gandiva:30",
        "Optimus",
    ]
    assert words.named("prices") == "PowerFlow's “prices”"
    assert words.named("greedy:0.5") == "the policy “greedy:0.5”"
