"""The page of a replay: its figures hold what its tables say, and its widest table fits a page of 1280 px."""

from __future__ import annotations

from typing import Any

from powerflow.report.replay import Rates, headline, render_replay
from powerflow.report.replay_plots import replay_figures
from powerflow.simulate.comparison import Estimate
from powerflow.simulate.replay.log import Match, Reproduction
from powerflow.simulate.replay.replay import Replay
from powerflow.simulate.replay.savings import Saving, Savings

#: Of CONTENT_PX of the page (style.css: 1080 px less its padding), at 13.5 px a digit of the table is 8 px wide.
CONTENT_PX, DIGIT_PX, GAP_PX = 1024, 8, 12


def made(weeks: int = 3, refusal: str | None = None, **fields: Any) -> Replay:
    matches = [Match(i * 604800.0, 40, 3600.0 * (i + 1), 3700.0 * (i + 1), 0.8, 0.79) for i in range(weeks)]
    saved = Estimate(0.256, 0.181, 0.331)
    joules, hours = Estimate(1.234e9, 1.1e9, 1.35e9), Estimate(-46440.0, -48960.0, -43920.0)
    names = ("fast", "balanced", "sparing", "balanced, GPUs as asked")
    ways = [Saving(name, name.endswith("asked"), 0.000735, saved, joules, saved, hours) for name in names]
    found = [Reproduction("easy-limits", Match(0.0, 120, 7200.0, 7400.0, 0.8, 0.79), matches)]
    savings = Savings(5e9, 72000.0, ways, "sparing")
    return Replay("a log", found, "easy-limits", refusal, savings, {"Log": "made"}, **fields)


def test_the_figures_hold_what_the_tables_say() -> None:
    figures = replay_figures(made())
    energy, time = figures["savings"]["data"]
    assert energy["y"] == time["y"] == [25.6] * 4
    assert energy["error_y"]["array"][0] == energy["error_y"]["arrayminus"][0]
    logged, replayed = figures["weeks"]["data"]
    assert (logged["y"], logged["x"]) == ([1.0, 2.0, 3.0], [1, 2, 3])
    assert [round(value, 3) for value in replayed["y"]] == [1.028, 2.056, 3.083]
    assert "weeks" not in replay_figures(made(weeks=1)), "one point is no curve"


def test_the_first_words_are_the_result() -> None:
    assert headline(made()) == "PowerFlow would have saved about 25.6 % of the energy and 25.6 % of the time of a job"
    assert headline(made(refusal="it differs")).startswith("UNVALIDATED: PowerFlow would")


def test_its_widest_table_fits_a_page_of_1280_px() -> None:
    html = render_replay(made(misses=["GPUs were free"]), Rates(0.25, 380.0))
    assert "<li>GPUs were free</li>" in html
    table = html[html.index("<h2>What PowerFlow") :].split("<table>")[1].split("</table>")[0]
    rows = [row.split("</tr>")[0] for row in table.split("<tr>")[1:]]
    cells = [[cell.split("</t")[0] for cell in row.replace("<th", "<td").split("<td")[1:]] for row in rows]
    wide = [max(_px(row[column]) for row in cells) for column in range(len(cells[0]))]
    assert len(wide) == 8
    assert sum(wide) < CONTENT_PX


def _px(cell: str) -> int:
    text = cell.partition(">")[2]
    return GAP_PX + DIGIT_PX * max(len(line) for line in text.replace("</small>", "").split("<small>"))
