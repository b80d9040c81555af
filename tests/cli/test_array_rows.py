"""Tasks of an array that wait for the same are one row."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from powerflow.cli.columns import ranges
from tests.cli.shell import Shell


def test_ranges_by_hand() -> None:
    assert ranges([3, 1, 2, 7]) == "1-3,7"
    assert ranges([5]) == "5"
    assert ranges(range(0, 20, 2)) == "0,2,4,6,…"


@given(st.sets(st.integers(0, 30), min_size=1, max_size=6))
def test_ranges_name_each_number_once(numbers: set[int]) -> None:
    text = ranges(numbers)
    named = [part.split("-") for part in text.split(",") if part != "…"]
    found = [n for part in named for n in range(int(part[0]), int(part[-1]) + 1)]
    assert found == sorted(numbers)[: len(found)]
    assert len(found) == len(numbers) or text.endswith("…")


def test_the_queue_has_one_row_for_tasks_that_wait_for_the_same(shell: Shell) -> None:
    for task in range(5):
        shell("submit", "--", "true")
        shell.cluster.change(str(task + 1), array_id="1", array_task=task, name=f"sweep[{task}]", reason="waits")
    shell.cluster.run("1")
    shell.cluster.change("3", reason="waits for something else")
    rows = [line.split()[:2] for line in shell("queue").splitlines()[2:5]]
    assert sorted(rows) == [["1", "sweep[0]"], ["2,4-5", "sweep[1,3-4]"], ["3", "sweep[2]"]]
    assert len(shell.json("queue")["jobs"]) == 5
