"""`powerflow watch` and `watched` as a user has them, on a machine with fake NVIDIA GPUs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from powerflow.cli.columns import fitted_table
from powerflow.cli.main import main
from powerflow.cli.output import console
from powerflow.cli.site.tables import present_columns
from powerflow.watch.ledger import WatchLedger
from powerflow.watch.owners import GpuAddress, WatchedJob
from powerflow.watch.present import Present, PresentJob
from powerflow.watch.use import JobUse
from powerflow.watch.watcher import HourUse, NodeHour, SettledUse
from tests.device.fake_nvml import Machine

POWERFLOW = str(Path(sys.executable).with_name("powerflow"))


def run(machine: Machine, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([POWERFLOW, *words], env=machine.env, capture_output=True, text=True, check=False)


def test_one_look_shows_who_draws_what(nvml_machine: Machine) -> None:
    nvml_machine.gpu[0].power_w, nvml_machine.gpu[0].utilisation = 300.0, 97
    nvml_machine.more[0].pids[0] = os.getpid()
    done = run(nvml_machine, "watch", "--once", "--owners", "processes", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    (job,) = found["jobs"]
    assert (found["power_w"], found["free_power_w"], found["free_gpus"]) == (360.0, 60.0, 1)
    assert (job["power_w"], job["utilisation"], job["clock_mhz"], job["energy_j"]) == (300.0, 0.97, 1410.0, None)
    assert job["gpus"][0].endswith(":0")


def test_it_ends_in_order_and_only_one_watches_a_file(nvml_machine: Machine, tmp_path: Path) -> None:
    file = tmp_path / "state" / "w.db"
    command = [POWERFLOW, "watch", "--file", str(file), "--owners", "processes"]
    first = subprocess.Popen(command, env=nvml_machine.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert first.stdout is not None
    assert "120 W: 2 GPUs in all; 0 held by 0 jobs" in first.stdout.readline()
    second = run(nvml_machine, *command[1:])
    assert (second.returncode, second.stderr.count("\n")) == (4, 1)
    assert "another watch writes it" in second.stderr
    began_s = time.monotonic()
    first.send_signal(signal.SIGTERM)
    out, err = first.communicate(timeout=20)
    assert (first.returncode, out) == (0, "")
    assert "kept in" in err
    assert "Traceback" not in err
    assert time.monotonic() - began_s < 10.0
    assert file.stat().st_mode & 0o077 == 0  # other users' jobs are named in it


def test_without_gpus_one_line_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", "--once"]) == 1
    said = capsys.readouterr().err
    assert "--prometheus URL" in said
    assert said.count("\n") == 1


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with two jobs of an hour that is over, of two users, and what nobody held."""
    path = tmp_path / "w.db"
    hour = int(time.time() // 3600) - 2
    start_s = hour * 3600.0 + 60.0
    ledger = WatchLedger(path)
    settled = SettledUse(others={NodeHour("n1", hour): HourUse(1e5, 1e5, 1e5, 1000.0)})
    for number, (user, joules) in enumerate((("ada", 3.6e6), ("=cmd()", 7.2e6))):
        job = WatchedJob(f"slurm:{number}@1", str(number), start_s, start_s + 1200, "a\x1b[31mb", user, "bio", "gpu")
        use = JobUse(joules, 0.99 * joules, 1.02 * joules, 2400.0, hours={hour: joules}, from_s=start_s)
        use.idle_s, use.idle_j, use.judged_s = 1200.0, 1e5, 2400.0
        settled.jobs[job.key] = (job, use)
    ledger.save(settled, {"slurm:0@1": 2, "slurm:1@1": 2}, {})
    ledger.close()
    return path


def watched(capsys: pytest.CaptureFixture[str], file: Path, *words: str) -> str:
    assert main(["watched", "--file", str(file), *words]) == 0
    return capsys.readouterr().out


def test_sums_by_user_as_table_json_csv_and_page(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    page, csv = tmp_path / "w.html", tmp_path / "w.csv"
    price = ["--tariff", "0.3", "--currency", "EUR", "--carbon", "400"]
    table = watched(capsys, file, *price, "--report", str(page), "--csv", str(csv))
    assert "cost EUR" in table
    assert "\x1b" not in table
    document: dict[str, Any] = json.loads(watched(capsys, file, *price, "--json"))
    assert [(line["name"], line["money"], line["co2_g"]) for line in document["lines"]] == [
        ("=cmd()", pytest.approx(0.6), pytest.approx(800.0)),
        ("ada", pytest.approx(0.3), pytest.approx(400.0)),
    ]
    assert document["nobody"]["energy_j"] == pytest.approx(1e5)
    assert max(len(line) for line in table.splitlines()) <= 100
    rows = csv.read_text().splitlines()
    assert rows[0].startswith("user,user,label,account,partition,state,start_s,end_s")
    assert not any(row.startswith("=") for row in rows)  # a spreadsheet would run it
    html = page.read_text()
    assert "Measured." in html
    assert "Simulated." not in html
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert "\x1b" not in html


def test_tables_of_jobs_name_account_and_partition(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    page, csv = tmp_path / "w.html", tmp_path / "w.csv"
    table = watched(capsys, file, "--by", "job", "--report", str(page), "--csv", str(csv))
    lines = table.splitlines()
    at = next(number for number, line in enumerate(lines) if "account" in line)
    head, line = lines[at], lines[at + 2]
    assert (line[head.index("account") :].split()[0], line[head.index("partition") :].split()[0]) == ("bio", "gpu")
    html = page.read_text()
    assert html.count('<td class="text">bio</td>') == html.count('<td class="text">gpu</td>') == 2
    assert [row.split(",")[3:5] for row in csv.read_text().splitlines()[1:3]] == [["bio", "gpu"]] * 2


def test_sums_by_month_are_those_of_a_year(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    csv = tmp_path / "w.csv"
    document = json.loads(watched(capsys, file, "--by", "month", "--csv", str(csv), "--json"))
    assert 334 * 86400 < document["until_s"] - document["since_s"] < 367 * 86400
    assert sum(line["energy_j"] for line in document["lines"]) == pytest.approx(10.8e6)
    assert [line["name"] for line in document["lines"]] == sorted(line["name"] for line in document["lines"])
    heads, *rows = csv.read_text().splitlines()
    assert heads.startswith("month,")
    assert rows[0].startswith(document["lines"][0]["name"])


def test_a_name_with_line_breaks_and_control_characters_leaves_the_table_whole() -> None:
    name = "a\nb\r\x1b["
    job = PresentJob("1", name, "ada", "", "", "", [GpuAddress("n1", 0)], 0, 0, 9.0, None, None, 0.0, *[None] * 4)
    found = Present(60.0, None, [job], 1, 0, 0.0, 0, 0.0, [], 9.0, [], emulated=False)
    out = console()
    with out.capture() as said:
        out.print(fitted_table(found.jobs, present_columns(found), 80))
    head, _, line = said.get().splitlines()
    assert "a\\nb\\x0d\\x1b[" in line
    assert max(len(head), len(line)) <= 80
    assert not any(ord(letter) < 32 for letter in line)


def test_a_file_in_a_folder_that_is_read_only_can_be_read(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.parent.chmod(0o500)
    try:
        assert "ada" in watched(capsys, file)
    finally:
        file.parent.chmod(0o700)


def test_nothing_settled_yet_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    WatchLedger(tmp_path / "new.db").close()
    assert "nothing is settled for this time yet" in watched(capsys, tmp_path / "new.db")


def test_an_address_that_is_no_prometheus_is_refused_at_the_first_look(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["watch", "--prometheus", "http://127.0.0.1:9", "--file", str(tmp_path / "w.db")]) == 5
    assert capsys.readouterr().err.count("powerflow:") == 1


def test_a_narrow_terminal_keeps_name_and_energy(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    table = watched(capsys, file, "--by", "job")
    assert max(len(line) for line in table.splitlines() if not line.startswith("!")) <= 60
    assert "kWh" in table


def test_a_file_that_is_not_there_or_of_something_else_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["watched", "--file", str(tmp_path / "none.db")]) == 3
    assert "run powerflow watch first" in capsys.readouterr().err
    (tmp_path / "text.db").write_text("hello, this is no database at all " * 40)
    assert main(["watched", "--file", str(tmp_path / "text.db")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
