"""The commands that ask a controller, through the command line, against a real server over a fake cluster."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from powerflow.api.decisions import Explanation
from powerflow.api.job_spec import JobSpec
from powerflow.api.pages import NumberedPage
from powerflow.api.records import JobState
from powerflow.cli.main import main
from tests.cli.shell import ADA, Shell

# --- reading ------------------------------------------------------------------------------------------------------


def test_queue_lists_what_has_not_ended_running_first(busy: Shell) -> None:
    lines = busy("queue").splitlines()
    assert lines[0].split() == [
        "id",
        "name",
        "user",
        "state",
        "GPUs",
        "MHz",
        "power",
        "progress",
        "step",
        "ends",
        "in",
        "why",
    ]
    assert [line.split()[0] for line in lines[2:5]] == ["1", "2", "3"]
    for part in (
        "resnet50",
        "ada",
        "running",
        "2 of 1",
        "1110",
        "402 Wᵉ",
        "██",
        "25%",
        "0.112 s",
        "2:00:",
        "started on 2",
    ):
        assert part.strip() in lines[2]
    assert "emulated: from a model" in lines[-1]
    assert "broken" in busy("queue", "--all")
    assert [job["id"] for job in busy.json("queue", "--state", "failed")["jobs"]] == ["4"]
    assert [job["id"] for job in busy.json("queue", "--all", "--limit", "2")["jobs"]] == ["3", "4"]
    assert busy("queue", "--user", "bob") == "no jobs\n"


def test_queue_json_has_null_for_what_is_not_known(busy: Shell) -> None:
    document = busy.json("queue")
    waiting = next(job for job in document["jobs"] if job["id"] == "2")
    assert document["kind"] == "jobs"
    assert (waiting["clock_mhz"], waiting["eta_s"], waiting["nodes"], waiting["emulated"]) == (None, None, [], True)


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_no_table_is_wider_than_the_terminal(busy: Shell, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for argv in (["queue", "-a"], ["top"], ["node", "list"], ["explain", "1"], ["acct"], ["describe", "1"]):
        lines = busy(*argv).splitlines()
        assert max(map(len, lines)) <= max(width, 72 if argv[0] not in ("queue", "top") else 0), argv
        if argv[0] == "queue":
            assert [line.split()[0] for line in lines[2:6]] == ["1", "2", "3", "4"], "numbers are never cut"


def test_more_jobs_than_a_page_are_all_listed(shell: Shell) -> None:
    for _ in range(1203):
        shell.cluster.submit(JobSpec(run="true"), ADA)
    assert len({job["id"] for job in shell.json("queue")["jobs"]}) == 1203


def test_explain(busy: Shell) -> None:
    said = busy("explain", "1")
    assert said.startswith("job 1: started on 2 GPUs at 1110 MHz")
    assert "now" in said
    assert "-55%" in said, "four GPUs: 0.05 s instead of 0.112 s"
    assert busy.json("explain", "2")["now"] is None


def test_top(busy: Shell) -> None:
    said = busy("top")
    for part in (
        "2 of 8 busy",
        "702 Wᵉ",
        "1 running, 1 queued, 1 held · next decision in 34 s",
        "! no right to set clocks on n2",
    ):
        assert part in said
    assert busy.json("top")["emulated"] is True


def test_a_job_whose_processes_are_ending_is_completing(busy: Shell) -> None:
    busy.cluster.complete("1")
    head, _, first, *_ = busy("queue").splitlines()
    at = head.index("state")
    assert first[at:].split()[0] == "completing"
    assert "402 Wᵉ" in first
    assert [job["id"] for job in busy.json("queue")["jobs"]] == ["1", "2", "3"]
    assert [job["id"] for job in busy.json("queue", "--state", "completing")["jobs"]] == ["1"]
    assert busy("queue", "--state", "running") == "no jobs\n"
    assert [job["state"] for job in busy.json("queue", "--state", "completing")["jobs"]] == ["cancelled"]
    assert "0 running, 1 completing, 1 queued, 1 held" in busy("top")
    said = busy("describe", "1")
    assert "state        completing" in said
    assert "cancelled by ada; its processes are ending" in said
    assert busy("history", "--no-header", "-o", "id").split() == ["4"]


def test_acct(busy: Shell) -> None:
    names = [account["name"] for account in busy.json("acct", "--by", "project", "--since", "24h")["accounts"]]
    assert names == ["vision", "idle", "total"]
    busy.cluster.change("1", energy_j=1800.0)
    said = busy("acct", "--by", "job")
    assert "0.0005 kWhᵉ" in said, "in one unit with the kWh of the others"
    assert " Jᵉ" not in said
    assert "'soon' is not a time" in busy("acct", "--since", "soon", code=2)
    assert "ends before it begins" in busy("acct", "--since", "1h", "--until", "2h", code=2)


def test_node(busy: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    assert busy("node", "list").count("A100") == 8
    assert "needs the role operator" in busy("node", "drain", "n1", code=4)
    monkeypatch.setenv("POWERFLOW_TOKEN", "pf_operator")
    assert busy("node", "drain", "n1", "--reason", "fan", "--yes") == "n1 is drained\n"
    assert busy.json("node", "resume", "n1")["state"] == "up"
    assert busy("node", "declare-off", "n1", "--reason", "fire") == "n1 is declared off\n"
    assert "node n2 answers, so it is not off" in busy("node", "declare-off", "n2", code=4)
    assert "there is no node n9" in busy("node", "drain", "n9", code=3)
    for name in ("..", "", "a/../b"):
        assert main(["node", "drain", name]) in (2, 3)


def test_logs(busy: Shell) -> None:
    assert busy("logs", "4") == "one\nboom\n"
    assert "no rank 9.9.9; it has 4.1.0" in busy("logs", "4", "--rank", "9.9.9", code=3)


def test_logs_as_json_are_one_piece_a_line(busy: Shell) -> None:
    pieces = [json.loads(line) for line in busy("logs", "4", "--json").splitlines()]
    told = {"version": 1, "kind": "log", "rank": "4.1.0", "text": "one\nboom\n", "offset": 9, "ended": True}
    assert pieces == [told | {"dropped": False}]


@pytest.mark.parametrize("command", ["queue", "describe", "explain", "logs", "top", "acct", "events", "audit", "mode"])
def test_every_reading_command_takes_json(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert "--json" in capsys.readouterr().out


def test_logs_follow_to_the_end(busy: Shell) -> None:
    read = busy.cluster.log
    offsets: list[int] = []

    def grows(job_id: str, **query: Any) -> Any:
        """Each time the end is reached, another line comes, and after the third the job ends."""
        found = read(job_id, **query)
        if not found.text and not found.ended:
            offsets.append(query["offset"])
            if len(offsets) < 3:
                busy.cluster.write("1", f"step {len(offsets)}\n")
            else:
                busy.cluster.end("1")
        return found

    busy.cluster.log = grows  # type: ignore[method-assign]
    assert busy("logs", "1", "--follow") == "step 1\nstep 2\n"
    assert offsets == [0, 7, 14]


def test_events(busy: Shell) -> None:
    lines = busy("events", "--job", "1").splitlines()
    assert ["submitted" in lines[0], "started" in lines[1], len(lines)] == [True, True, 2]
    document = busy.json("events", "--after", "5")
    assert [event["number"] for event in document["events"]] == [6, 7]
    assert document["after"] == 7


@pytest.mark.parametrize(
    "argv",
    [["queue"], ["top"], ["describe", "1"], ["explain", "1"], ["explain", "1", "--history"], ["acct"], ["events"]],
)
def test_what_a_job_says_does_not_steer_the_terminal(busy: Shell, argv: list[str]) -> None:
    """A title set, a bell, and the same escape as the one character that C1 has for it; and a forged line of events."""
    evil = "\x1b]0;owned\x07 \x9b2J\n2026-01-01 00:00:00  job 1      completed   forged"
    busy.cluster.submit(JobSpec(run=evil, env={"A": evil}, directory=f"/{evil}"), ADA)
    busy.cluster.change("1", name=evil, project=evil, reason=evil, user=evil)
    busy.cluster._specs["1"] = busy.cluster._specs["5"]
    busy.cluster.write("1", evil)
    busy.cluster._event("failure", "1", evil)
    told = busy.cluster.decisions("1").items[0]
    busy.cluster.decisions = lambda *_, **__: NumberedPage([replace(told, reason=evil)], 1)  # type: ignore[method-assign]
    busy.cluster.explain = lambda _: Explanation("1", evil, evil, None, 0.0, 0.0, None, ())  # type: ignore[method-assign, assignment]
    said = busy(*argv)
    assert r"\x1b]0;" in said
    assert not [char for char in said if unicodedata.category(char) == "Cc" and char != "\n"]
    if argv == ["events"]:
        assert r"\n2026-01-01" in said
    written = busy(*argv, "--json")
    assert not [char for char in written if unicodedata.category(char) == "Cc" and char != "\n"]


def test_logs_do_not_steer_the_terminal_unless_they_are_asked_for_raw(busy: Shell) -> None:
    evil = "\x1b[32mgreen\x1b[0m\x9b2J \u202edesrever\n10 %\r20 %\r\ndone\x07\r"
    busy.cluster.write("1", evil)
    safe = r"\x1b[32mgreen\x1b[0m\x9b2J \u202edesrever" + "\n10 %\n20 %\n" + r"done\x07"
    assert busy("logs", "1") == safe
    assert busy("logs", "1", "--raw") == evil
    assert busy.json("logs", "1")["text"] == evil
    busy.cluster.write("1", "\nnext\n")
    busy.cluster.end("1")
    assert busy("logs", "1", "--follow") == safe + "\nnext\n"


# --- changing -----------------------------------------------------------------------------------------------------


def test_jobs_are_held_released_and_cancelled(busy: Shell) -> None:
    assert busy("hold", "1", "2") == "job 1 is held\njob 2 is held\n"
    assert busy("release", "1") == "job 1 is queued\n"
    assert [job["state"] for job in busy.json("cancel", "1", "2")["jobs"]] == ["cancelled"] * 2


def test_what_can_be_changed_is_and_the_rest_is_said(busy: Shell) -> None:
    assert main(["cancel", "99", "1", "4"]) == 4
    out, err = busy.capsys.readouterr()
    assert out == "job 1 is cancelled\n"
    assert err == "powerflow: there is no job 99\npowerflow: job 4 has failed\n"


def test_nothing_is_changed_where_a_number_is_none(busy: Shell) -> None:
    assert "no job has the number or the name 'x'" in busy("cancel", "1", "x", code=3)
    assert busy.cluster.job("1").record.state is JobState.RUNNING


def test_another_s_job_is_refused(busy: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POWERFLOW_TOKEN", "pf_other")
    assert "belongs to ada" in busy("cancel", "1", code=4)


@pytest.mark.parametrize("verb", ["describe", "explain", "logs", "cancel", "hold", "release"])
def test_a_job_that_is_not_there_is_3(shell: Shell, verb: str) -> None:
    assert shell(verb, "99", code=3) == "powerflow: there is no job 99\n"
    for word in ("../1", "1 2", "²"):
        assert f"no job has the number or the name '{word}'" in shell(verb, word, code=3)
    for word in ("", "1" * 19):
        assert "is not the number of a job" in shell(verb, word, code=2)


# --- unreachable, strangers, wrong tokens ---------------------------------------------------------------------------

VERBS: Sequence[Sequence[str]] = (
    ["submit", "--run", "true"],
    ["queue"],
    ["describe", "1"],
    ["logs", "1", "-f"],
    ["cancel", "1"],
    ["top", "--watch"],
    ["acct"],
    ["events", "-f"],
    ["node", "list"],
)


@pytest.mark.parametrize("argv", VERBS, ids=" ".join)
def test_no_controller_is_5_and_one_line(shell: Shell, argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    monkeypatch.setenv("POWERFLOW_URL", url)
    assert shell(*argv, code=5) == f"powerflow: no controller at {url}; start one with powerflow serve\n"
    monkeypatch.delenv("POWERFLOW_URL")
    assert "no controller has written its address to" in shell(*argv, code=5)


def test_a_wrong_token_is_4(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POWERFLOW_TOKEN", "pf_nobody")
    assert "the request has no valid token; give a token with --token-file" in shell("queue", code=4)


def test_a_store_that_is_locked_for_long_is_5(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.service.fake_cluster import UNAVAILABLE

    shell.cluster.broken = UNAVAILABLE
    monkeypatch.setattr("powerflow.cli.cluster.client.PATIENCE_S", 0.3)
    assert "the store is locked" in shell("queue", code=5)


def test_a_stranger_is_not_believed(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Stranger(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Stranger) as server:
        threading.Thread(target=server.handle_request).start()
        monkeypatch.setenv("POWERFLOW_URL", f"http://127.0.0.1:{server.server_port}")
        assert "does not answer like a PowerFlow controller" in shell("queue", code=5)


# --- watching, completing -------------------------------------------------------------------------------------------


@pytest.fixture
def start(shell: Shell) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def begin(*argv: str, **env: str) -> subprocess.Popen[str]:
        code = "from powerflow.cli.main import run; run()"
        process = subprocess.Popen(
            [sys.executable, "-c", code, *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **env},
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("argv", [["queue", "--watch", "0.1"], ["events", "-f"], ["top", "--json", "--watch=0.1"]])
def test_ctrl_c_ends_what_goes_on(busy: Shell, start: Callable[..., subprocess.Popen[str]], argv: list[str]) -> None:
    process = start(*argv)
    assert process.stdout is not None
    for _ in range(30 if "--watch" in argv[1] else 3):
        assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == "powerflow: interrupted\n"


def test_the_shell_completes_job_numbers(busy: Shell, start: Callable[..., subprocess.Popen[str]]) -> None:
    ask = {"_POWERFLOW_COMPLETE": "complete_bash", "COMP_CWORD": "2"}
    out, err = start(COMP_WORDS="powerflow describe ", **ask).communicate(timeout=60)
    assert (sorted(out.split()), err) == (["1", "2", "3"], "")
    out, _ = start(COMP_WORDS="powerflow queue --wa", **ask).communicate(timeout=60)
    assert out.split() == ["--watch"]
    fish = {"_POWERFLOW_COMPLETE": "complete_fish", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    out, _ = start(_TYPER_COMPLETE_ARGS="powerflow cancel ", **fish).communicate(timeout=60)
    assert "1\tresnet50 of ada, running" in out


def test_completion_is_silent_where_nobody_answers(start: Callable[..., subprocess.Popen[str]]) -> None:
    ask = {"_POWERFLOW_COMPLETE": "complete_bash", "COMP_CWORD": "2", "POWERFLOW_URL": "http://127.0.0.1:9"}
    out, err = start(COMP_WORDS="powerflow describe ", **ask).communicate(timeout=60)
    assert (out.strip(), err) == ("", "")


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: Shell, name: str) -> None:
    assert f"complete_{name}" in shell("completion", name)
