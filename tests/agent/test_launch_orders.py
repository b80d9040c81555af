"""What an agent makes of an order to launch ranks of several jobs, which belong to different users."""

from __future__ import annotations

import asyncio
import os
import pwd
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from powerflow.agent.node_agent import NodeAgent
from powerflow.agent.pythons import PYTHON_IN_PATH
from powerflow.elastic.mailbox import JOB_DIR
from powerflow.engine.cluster.rows import spec_row
from powerflow.engine.cluster.sealed import AgentSide, JoinToken, own_key
from powerflow.engine.protocol import EngineError, RankName, RankSpec, RankState, RankStatus
from powerflow.testing.memory_engine import MemoryCluster, MemoryEngine, Part

NOBODY = "nobody"


class NoDevices:
    def report(self) -> dict[str, Any]:
        return {"at": ""}


class QuickEngine(MemoryEngine):
    """Its ranks of gang 2 have ended when their launch is answered."""

    def launch(self, spec: RankSpec) -> RankStatus:
        status = super().launch(spec)
        return replace(status, state=RankState.EXITED, code=0) if spec.name.gang == "2" else status


def launched(
    directory: Path, *specs: RankSpec, letters: list[list[str]]
) -> tuple[list[dict[str, Any]], dict[str, RankSpec]]:
    """Give an agent one order; return its answer, and what its engine was told to start, by gang."""
    answer, told = ordered(directory, *specs, letters=letters, kind=MemoryEngine)
    return answer["ranks"], told


def ordered(
    directory: Path, *specs: RankSpec, letters: list[list[str]], kind: type[MemoryEngine]
) -> tuple[dict[str, Any], dict[str, RankSpec]]:
    key = own_key(directory / "key")
    side = AgentSide(key, JoinToken(bytes(key.public_key), bytes(32)), "1")
    told: dict[str, RankSpec] = {}

    def play(spec: RankSpec) -> Part:
        told[spec.name.gang] = spec
        if spec.user == "no-such-user-7f3a":
            raise EngineError("it got as far as the engine")
        return Part()

    cluster = MemoryCluster({"n": 8}, play=play)

    async def order() -> dict[str, Any]:
        agent = NodeAgent(directory, {}, kind(cluster), NoDevices(), side, lambda **_: None)  # type: ignore[arg-type]
        try:
            rows = [spec_row(spec) for spec in specs]
            return await agent._launch({"specs": rows, "letters": letters, "fences": {}, "interpreter": ""})
        finally:
            agent.close()

    return asyncio.run(order()), told


def spec(gang: str, user: str, **env: str) -> RankSpec:
    env = {JOB_DIR: f"/controller/jobs/{gang}", **env}
    return RankSpec(RankName(gang, 0, 0), "n", ("sleep", "60"), env, f"/controller/jobs/{gang}", user)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has folders for others")
def test_each_job_gets_a_folder_of_its_own_user(tmp_path: Path) -> None:
    letters = [["1", "target.json", "{}"], ["10", "target.json", "{}"]]
    launched(tmp_path, spec("10", NOBODY), spec("1", ""), letters=letters)
    owners = {gang: (tmp_path / "jobs" / gang).stat().st_uid for gang in ("1", "10")}
    assert owners == {"1": 0, "10": pwd.getpwnam(NOBODY).pw_uid}
    assert (tmp_path / "jobs" / "1" / "target.json").read_text() == "{}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has folders for others")
def test_a_user_who_is_missing_stops_only_the_own_job(tmp_path: Path) -> None:
    rows, _ = launched(tmp_path, spec("1", "no-such-user-7f3a"), spec("2", ""), letters=[])
    assert [row["state"] for row in rows] == ["not started", "running"]
    assert "no-such-user-7f3a" in rows[0]["why"]


def test_a_rank_finds_the_home_of_its_user_on_this_machine(tmp_path: Path) -> None:
    me = pwd.getpwuid(os.geteuid())
    _, told = launched(tmp_path, spec("1", me.pw_name), spec("2", me.pw_name, HOME="/elsewhere"), letters=[])
    folders = {gang: spec.env for gang, spec in told.items()}
    assert (folders["1"]["HOME"], folders["1"]["USER"]) == (me.pw_dir, me.pw_name)
    assert folders["2"]["HOME"] == "/elsewhere"  # the job's own word
    assert folders["1"][JOB_DIR] == str(tmp_path / "jobs" / "1")


def test_the_end_of_a_rank_is_never_told_without_its_energy(tmp_path: Path) -> None:
    """Otherwise a job of a moment ends with 0 J, and is charged only later."""
    answer, _ = ordered(tmp_path, spec("1", ""), spec("2", ""), letters=[], kind=QuickEngine)
    assert [row["state"] for row in answer["ranks"]] == ["running", "exited"]
    assert answer["devices"] == NoDevices().report()
    answer, _ = ordered(tmp_path, spec("3", ""), letters=[], kind=QuickEngine)
    assert "devices" not in answer


def test_python_is_the_first_in_the_jobs_path_but_a_path_is_meant_as_it_stands(tmp_path: Path) -> None:
    own = tmp_path / "venv" / "python"
    own.parent.mkdir()
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    meant = replace(spec("1", "", PATH=str(own.parent)), command=(PYTHON_IN_PATH, "t.py"), python=True)
    ours = replace(spec("2", "", PATH=os.path.dirname(sys.executable)), command=(PYTHON_IN_PATH, "t.py"), python=True)
    named = replace(spec("3", "", PATH=str(own.parent)), command=(sys.executable, "t.py"))
    _, told = launched(tmp_path, meant, ours, named, letters=[])
    assert (told["1"].command[0], told["1"].python) == (str(own), False)
    assert (told["2"].command[0], told["2"].python) == (sys.executable, True)
    assert (told["3"].command[0], told["3"].python) == (sys.executable, True), "else each new rank imports torch anew"
