"""What Debian's Slurm 22.05.8 said of a small site, and what the watch makes of it.

``recorded_squeue.json`` has six answers of ``squeue --json`` within four minutes, cut to the keys that are read; names
of users and nodes are made up. ``sacct`` named the true ends of all runs afterwards.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from powerflow.errors import InputError
from powerflow.watch.memory import OwnerMemory
from powerflow.watch.owners import GpuAddress, OwnersLook
from powerflow.watch.sources.slurm import Slurm, read_jobs
from powerflow.watch.sources.slurm_private import hidden_gpus, hidden_kinds

RECORDED = json.loads(Path(__file__).with_name("recorded_squeue.json").read_text())
#: When the first jobs were submitted, Unix seconds.
BEGAN_S = 1795901929


def look(number: int) -> OwnersLook:
    """The answer with this number."""
    return read_jobs(json.dumps(RECORDED[number]), RECORDED[number]["asked_s"])


def test_every_run_has_its_owner_its_gpus_and_the_end_that_sacct_names() -> None:
    memory = OwnerMemory()
    for number in range(len(RECORDED)):
        memory.update(look(number))
    runs = {(job.id, round(job.start_s - 0.5) - BEGAN_S): job for job in memory.jobs.values()}
    ends = {run: None if job.end_s is None else round(job.end_s - 0.5) - BEGAN_S for run, job in runs.items()}
    assert ends == {
        ("1", 0): 70,
        ("2_1", 0): 40,
        ("2_2", 0): 40,
        ("2_3", 41): 81,
        ("3", 100): 150,  # was held before
        ("4", 0): 60,
        ("5", 0): 60,  # scontrol requeue: its number is that of a job that waits
        ("6", 0): 110,  # suspended meanwhile
        ("7", 0): 75,
        ("10", 41): 124,  # its time limit, and the time until Slurm looked
        ("11+0", 64): 124,
        ("11+1", 64): 124,
    }
    assert {job.user for run, job in runs.items() if run[0] in ("2_1", "2_3", "4", "6", "10")} == {"ben"}
    assert {job.user for run, job in runs.items() if run[0] in ("1", "3", "5", "7", "11+1")} == {"ada"}
    assert (runs["5", 0].state, runs["7", 0].state, runs["10", 41].state) == ("REQUEUED", "CANCELLED", "TIMEOUT")
    wide = {gpu: held for gpu in memory.gpus() for held in memory.holdings(gpu) if held.job.startswith("slurm:4@")}
    assert {*map(str, wide)} == {"n1:3", "n2:0"}


def test_the_end_of_a_run_that_was_requeued_is_only_taken_from_the_right_one() -> None:
    """A requeue that an earlier look told already says nothing about the run that was seen since then."""
    memory = OwnerMemory()
    memory.update(look(1))
    run = next(job for job in memory.jobs.values() if job.id == "5")
    late = look(2)
    gone = OwnersLook(late.time_s + 400.0, {}, [], requeued_s=late.requeued_s)
    memory.known_until_s = late.time_s + 100.0
    memory.update(gone)
    assert memory.jobs[run.key].end_s == late.time_s + 250.0  # between two looks
    assert memory.jobs[run.key].state == ""


NODES = """\
NodeName=n1 Arch=x86_64 CPUAlloc=2 Gres=gpu:a100:4 GresDrain=N/A GresUsed=gpu:a100:3(IDX:0-1,3) NodeAddr=10.0.0.1
NodeName=n2 Arch=x86_64 CPUAlloc=0 Gres=gpu:4(S:0-1),nvme:2 GresDrain=N/A GresUsed=gpu:2,nvme:0 NodeAddr=10.0.0.2
NodeName=n3 Arch=x86_64 CPUAlloc=0 Gres=gpu:a100:2 GresDrain=N/A GresUsed=gpu:a100:0(IDX:N/A) NodeAddr=10.0.0.3
NodeName=cpu1 Arch=x86_64 CPUAlloc=0 Gres=(null) GresDrain=N/A GresUsed= NodeAddr=10.0.0.4
"""


def test_gpus_of_hidden_jobs_are_those_that_are_given_out_to_no_visible_one() -> None:
    mine = {GpuAddress("n1", 0), GpuAddress("n2", 2)}
    assert sorted(map(str, hidden_gpus(NODES, mine))) == ["n1:1", "n1:3", "n2:0", "n2:1", "n2:3"]
    all_mine = {GpuAddress("n1", 0), GpuAddress("n1", 1), GpuAddress("n1", 3), GpuAddress("n2", 0), GpuAddress("n2", 1)}
    assert hidden_gpus(NODES, all_mine) == set()


def test_what_slurm_hides() -> None:
    assert hidden_kinds("A = b\nPrivateData             = jobs,usage\nProctrackType = x\n") == {"jobs", "usage"}
    assert hidden_kinds("PrivateData             = none\n") == set()
    assert hidden_kinds("") == set()


def command(text: str, exit_code: int = 0) -> list[str]:
    """A command that says this."""
    return [sys.executable, "-S", "-c", f"import sys; print({text!r}); sys.exit({exit_code})"]


def test_slurm_is_asked_for_nodes_only_where_it_hides_jobs() -> None:
    jobs, refused = command('{"jobs": []}'), command("slurm_load_node error: Access/permission denied", 1)
    assert Slurm(jobs, command("PrivateData = none"), refused).look(1e9).hidden == ()
    found = Slurm(jobs, command("PrivateData = jobs"), command(NODES)).look(1e9)
    assert (len(found.hidden), found.complete) == (7, True)
    found = Slurm(jobs, command("PrivateData = jobs,nodes"), refused).look(1e9)
    assert (found.hidden, found.complete) == ((), False)
    assert "run this as a user who may see them" in found.notes[0]
    with pytest.raises(InputError, match="denied"):
        Slurm(jobs, command("PrivateData = jobs"), refused).look(1e9)
    (note,) = Slurm(jobs, refused, refused).look(1e9).notes
    assert "whether jobs are hidden is not known" in note
