"""``powerflow logs`` over all starts of a job, against a real server over a cluster in memory."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from typing import Any

import pytest

from powerflow.api import operations as ops
from powerflow.api.decode import decode
from powerflow.api.logs import LogChunk
from powerflow.api.records import JobState, NodeAway
from powerflow.cli.cluster import log_reader
from powerflow.cli.main import main
from tests.cli.shell import Shell

FIRST, SECOND = "start 1 of 2, rank 1.1.0", "start 2 of 2, rank 1.3.0"


@pytest.fixture
def twice(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """A job that runs for the second time; the first time ended an hour ago, in the middle of a line."""
    monkeypatch.setattr(log_reader, "_LOOK_S", 0.0)
    shell("submit", "--run", "python t.py")
    shell.cluster.now_s -= 3600.0
    shell.cluster.run("1")
    shell.cluster.write("1", "one\ntwo\n45 %")
    shell.cluster.now_s += 3000.0
    shell.cluster.write("1", "three\nfour\n", rank="1.3.0")
    shell.cluster.now_s += 600.0
    shell.cluster.write("1", "five\n")
    return shell


def test_all_starts_are_printed_in_order(twice: Shell) -> None:
    assert twice("logs", "1", notes=[FIRST, SECOND]) == "one\ntwo\n45 %\nthree\nfour\nfive\n"
    assert twice("logs", "1", "--raw", notes=[FIRST, SECOND]) == "one\ntwo\n45 %three\nfour\nfive\n"


def test_a_heading_stands_between_the_logs_on_a_terminal(twice: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a terminal, which shows both streams."""
    monkeypatch.setattr(sys, "stderr", sys.stdout)
    assert main(["logs", "1"]) == 0
    note = "powerflow: note: "
    shown = f"{note}{FIRST}\none\ntwo\n45 %\n{note}{SECOND}\nthree\nfour\nfive\n"
    assert twice.capsys.readouterr().out == shown


def test_previous_is_the_start_before_the_last_one(twice: Shell) -> None:
    assert twice("logs", "1", "--previous", notes=[FIRST]) == "one\ntwo\n45 %"
    assert twice("logs", "1", "-p", "-n", "1", notes=[FIRST]) == "45 %"
    assert twice("logs", "1", "-p", "-f", notes=[FIRST]) == "one\ntwo\n45 %"


def test_there_may_be_no_previous_start(shell: Shell) -> None:
    shell("submit", "--run", "python t.py")
    what = "powerflow: job 1 has no log of a start before the last one\n"
    assert shell("logs", "1", "--previous", code=3) == what
    shell.cluster.run("1")
    assert shell("logs", "1", "--previous", code=3) == what
    assert "--rank names one log" in shell("logs", "1", "-p", "--rank", "1.1.0", code=2)


def test_ranks_that_were_main_one_after_another_are_one_start(twice: Shell) -> None:
    """The main rank of an in-place job left; the next one was there already."""
    twice.cluster.write("1", "six\n", rank="1.3.1")
    third = "start 2 of 2, rank 1.3.1"
    assert twice("logs", "1", "-n", "3", notes=[SECOND, third]) == "four\nfive\nsix\n"
    assert twice("logs", "1", "--previous", notes=[FIRST]) == "one\ntwo\n45 %"
    twice.cluster.write("1", "seven\n", rank="1.7.0")
    notes = ["start 2 of 3, rank 1.3.0", "start 2 of 3, rank 1.3.1"]
    assert twice("logs", "1", "--previous", notes=notes) == "three\nfour\nfive\nsix\n"


@pytest.mark.parametrize(
    ("lines", "printed", "notes"),
    [
        ("0", "", []),
        ("1", "five\n", [SECOND]),
        ("3", "three\nfour\nfive\n", [SECOND]),
        ("4", "45 %\nthree\nfour\nfive\n", [FIRST, SECOND]),
        ("5", "two\n45 %\nthree\nfour\nfive\n", [FIRST, SECOND]),
        ("99", "one\ntwo\n45 %\nthree\nfour\nfive\n", [FIRST, SECOND]),
    ],
)
def test_the_last_lines_are_those_of_all_logs_together(
    twice: Shell, lines: str, printed: str, notes: list[str]
) -> None:
    assert twice("logs", "1", "--tail", lines, notes=notes) == printed


def test_the_last_lines_of_a_log_that_grows_are_no_more_than_was_asked_for(twice: Shell) -> None:
    """Other lines come between the requests for its pieces."""
    read, more = twice.cluster.log, iter(["six\nseven\n", "ei", "ght\nnine\n"])

    def grows(job_id: str, **query: Any) -> Any:
        found = read(job_id, **query)
        if query["rank"] == "1.3.0":
            twice.cluster.write("1", next(more, ""))
        return found

    twice.cluster.log = grows  # type: ignore[method-assign]
    assert twice("logs", "1", "--tail", "2", notes=[SECOND]) == "eight\nnine\n"


def test_a_controller_of_an_earlier_version_is_no_wrong_answer(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no list of logs, and ignores what it does not know of a request for a log."""
    shell("submit", "--run", "python t.py")
    shell.cluster.run("1")
    monkeypatch.setattr(ops, "LOGS", replace(ops.LOGS, path="/jobs/{job_id}/unknown"))
    assert "the controller is of an earlier version" in shell("logs", "1", code=5)
    with pytest.raises(ValueError, match="dropped"):
        decode(LogChunk, {"rank": "1.1.0", "text": "all of it", "offset": 9, "ended": True})


def test_tail_takes_a_count_of_lines(twice: Shell) -> None:
    assert "'--tail' / '-n'" in twice("logs", "1", "--tail", "-1", code=2)
    assert "'--tail' / '-n'" in twice("logs", "1", "--tail", "x", code=2)


def test_only_what_was_written_since_a_time(twice: Shell) -> None:
    assert twice("logs", "1", "--since", "20m", notes=[SECOND]) == "three\nfour\nfive\n"
    assert twice("logs", "1", "--since", "5m", notes=[SECOND]) == "five\n"
    then = time.strftime("%Y-%m-%dT%H:%M", time.localtime(twice.cluster.now_s - 1200.0))
    assert twice("logs", "1", "--since", then, "-n", "2", notes=[SECOND]) == "four\nfive\n"
    assert twice("logs", "1", "--since", "2h", "-n", "4", notes=[FIRST, SECOND]) == "45 %\nthree\nfour\nfive\n"
    assert twice("logs", "1", "--since", "5m", "-n", "99", notes=[SECOND]) == "five\n"
    assert twice("logs", "1", "--rank", "1.1.0", "--since", "5m") == ""
    assert "'soon' is not a time" in twice("logs", "1", "--since", "soon", code=2)


def test_one_rank_has_no_heading(twice: Shell) -> None:
    assert twice("logs", "1", "--rank", "1.1.0") == "one\ntwo\n45 %"
    assert twice("logs", "1", "--rank", "1.3.0", "--tail", "1") == "five\n"
    assert twice("logs", "1", "--rank", "1.1.0", "--follow") == "one\ntwo\n45 %"  # it has ended, the job has not


def test_pieces_as_json_name_their_rank(twice: Shell) -> None:
    pieces = [json.loads(line) for line in twice("logs", "1", "--json", notes=[FIRST, SECOND]).splitlines()]
    assert [(piece["rank"], piece["text"], piece["offset"], piece["ended"]) for piece in pieces] == [
        ("1.1.0", "one\ntwo\n45 %", 12, True),
        ("1.3.0", "three\nfour\nfive\n", 16, False),
    ]


def test_what_is_not_kept_any_more_is_said(twice: Shell) -> None:
    twice.cluster.logs_of_ranks.drop("1.1.0", 4)
    gone = "output of rank 1.1.0 before this is not kept any more"
    assert twice("logs", "1", notes=[FIRST, gone, SECOND]).startswith("two\n")
    assert twice("logs", "1", "--previous", "--tail", "1", notes=[FIRST]) == "45 %"
    assert twice("logs", "1", "--previous", "--tail", "3", notes=[FIRST, gone]) == "two\n45 %"
    assert twice("logs", "1", "--previous", "--since", "2h", notes=[FIRST, gone]) == "two\n45 %"
    assert twice("logs", "1", "--rank", "1.1.0", notes=[gone]) == "two\n45 %"


def test_a_log_that_cannot_be_read_is_left_out_and_said(twice: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the last log is needed; the others may be on machines that are away."""
    read = twice.cluster.log

    def away(job_id: str, **query: Any) -> Any:
        if query["rank"] == "1.1.0":
            twice.cluster._known("away")
        return read(job_id, **query)

    monkeypatch.setattr(twice.cluster, "log", away)
    for more in ([], ["--tail", "99"]):
        assert main(["logs", "1", *more]) == 3
        out, err = twice.capsys.readouterr()
        assert out == "three\nfour\nfive\n"
        why = "powerflow: the log of rank 1.1.0 is left out: there is no job away"
        assert err.splitlines() == [f"powerflow: note: {SECOND}", why]


class Away:
    """The logs of a cluster of which the node of one rank is away for a number of requests."""

    def __init__(self, shell: Shell, monkeypatch: pytest.MonkeyPatch, rank: str, times: int) -> None:
        self._read, self._rank, self.left, self.asked = shell.cluster.log, rank, times, 0
        monkeypatch.setattr(shell.cluster, "log", self)

    def __call__(self, job_id: str, **query: Any) -> Any:
        if query["rank"] == self._rank:
            self.asked += 1
            self.left -= 1
            if self.left >= 0:
                raise NodeAway("node n7 does not answer", fix=f"the log of rank {self._rank} is there")
        return self._read(job_id, **query)


NODE_AWAY = "node n7 does not answer; the log of rank {} is there"


def test_a_node_that_is_away_is_named_at_once(twice: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that only read are repeated for 30 s if the controller is away: not here, where it has answered."""
    away = Away(twice, monkeypatch, "1.3.0", 99)
    for more in ([], ["--rank", "1.3.0"], ["--tail", "3"]):
        away.asked = 0
        assert main(["logs", "1", *more]) == 5
        out, err = twice.capsys.readouterr()
        assert out == ("" if more else "one\ntwo\n45 %")
        assert err.splitlines()[-1] == f"powerflow: {NODE_AWAY.format('1.3.0')}"
        assert away.asked == 1
    Away(twice, monkeypatch, "1.1.0", 99)
    away.left = 0
    assert main(["logs", "1"]) == 5
    out, err = twice.capsys.readouterr()
    assert out == "three\nfour\nfive\n"
    left_out = f"powerflow: the log of rank 1.1.0 is left out: {NODE_AWAY.format('1.1.0')}"
    assert err.splitlines() == [f"powerflow: note: {SECOND}", left_out]


@pytest.mark.parametrize("more", [[], ["--tail", "2"], ["--rank", "1.3.0"]])
def test_follow_waits_for_a_node_that_is_away(twice: Shell, monkeypatch: pytest.MonkeyPatch, more: list[str]) -> None:
    monkeypatch.setattr(log_reader, "_AWAY_S", 0.0)
    away = Away(twice, monkeypatch, "1.3.0", 3)
    ends = twice.cluster.log

    def end(job_id: str, **query: Any) -> Any:
        found = ends(job_id, **query)
        if query["rank"] == "1.3.0" and not found.ended:
            twice.cluster.end("1", JobState.COMPLETED, "completed")
        return found

    monkeypatch.setattr(twice.cluster, "log", end)
    notes = [] if more else [FIRST]
    notes += ["node n7 does not answer: waiting for the log of rank 1.3.0"]
    notes += [] if "--rank" in more else [SECOND]
    printed = twice("logs", "1", "--follow", *more, notes=notes)
    assert printed.endswith("four\nfive\n")
    assert printed.startswith("four" if "--tail" in more else "three" if more else "one")
    assert away.left < 0


def test_follow_does_not_wait_for_a_node_without_which_the_job_goes_on(
    twice: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_reader, "_AWAY_S", 0.0)
    Away(twice, monkeypatch, "1.1.0", 99)
    twice.cluster.end("1", JobState.COMPLETED, "completed")
    assert main(["logs", "1", "--follow"]) == 5
    out, err = twice.capsys.readouterr()
    assert out == "three\nfour\nfive\n"
    assert "the log of rank 1.1.0 is left out: node n7 does not answer" in err.splitlines()[-1]


def follow(shell: Shell, *steps: tuple[str, str] | None) -> None:
    """Take a step each time a reader finds nothing new: write to the log of a rank; at None, the job ends."""
    read, left = shell.cluster.log, iter(steps)

    def grows(job_id: str, **query: Any) -> Any:
        found = read(job_id, **query)
        if not found.text and not found.ended:
            step = next(left)
            if step is None:
                shell.cluster.end("1")
            else:
                shell.cluster.write("1", step[1], rank=step[0])
        return found

    shell.cluster.log = grows  # type: ignore[method-assign]


def test_follow_goes_on_when_the_job_is_started_again(twice: Shell) -> None:
    follow(twice, ("1.3.0", "six\n"), ("1.4.0", "again\n"), ("1.4.0", "and on\n"), None)
    notes = [SECOND, "start 3 of 3, rank 1.4.0"]
    assert twice("logs", "1", "-f", "--tail", "1", notes=notes) == "five\nsix\nagain\nand on\n"


def test_follow_from_the_end_prints_only_what_is_new(twice: Shell) -> None:
    follow(twice, ("1.3.0", "six\n"), None)
    assert twice("logs", "1", "-f", "-n", "0", notes=[SECOND]) == "six\n"


def test_follow_a_job_that_has_not_started(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_reader, "_LOOK_S", 0.0)
    shell("submit", "--run", "python t.py")
    listed, looks = shell.cluster.logs, [0]

    def starts(job_id: str) -> Any:
        looks[0] += 1
        if looks[0] == 3:
            shell.cluster.run("1")
            shell.cluster.write("1", "begun\n")
        return listed(job_id)

    shell.cluster.logs = starts  # type: ignore[method-assign]
    follow(shell, None)
    assert shell("logs", "1", "--follow") == "begun\n"
    assert looks[0] >= 4


def test_a_job_without_a_log_says_so(shell: Shell) -> None:
    note = "job 1 has no log: it has not started, or its logs are not kept any more"
    shell("submit", "--run", "python t.py")
    assert shell("logs", "1", notes=[note]) == ""
    assert shell("logs", "1", "--tail", "5", notes=[note]) == ""
    shell("cancel", "1")
    assert shell("logs", "1", "--follow", notes=[note]) == ""
