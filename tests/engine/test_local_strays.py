"""Ranks of one owner, and the folders that know of them or do not."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from powerflow.engine.local import LocalEngine
from powerflow.engine.local.strays import end_stray_servers, end_strays, find_strays
from powerflow.engine.protocol import EngineError
from powerflow.testing.engine_conformance_process import alive
from tests.engine.test_local_faults import shell, wait_for

OWNER = "store-of-these-tests"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "engine"
    yield home
    engine = LocalEngine(home, {"n1": 4})
    engine.shutdown(kill=True)


def test_an_engine_has_one_owner(home: Path) -> None:
    LocalEngine(home, {"n1": 4}, owner=OWNER).close()
    LocalEngine(home).close()
    with pytest.raises(EngineError, match="ranks of another store"):
        LocalEngine(home, {"n1": 4}, owner="another")


def test_ones_own_ranks_are_no_strays_but_a_copys_originals_are(home: Path, tmp_path: Path) -> None:
    with LocalEngine(home, {"n1": 4}, owner=OWNER) as engine:
        status = engine.launch(shell(3, "exec sleep 600"))
    assert find_strays(home, OWNER) == []
    assert find_strays(home, "another") == []
    strays = find_strays(tmp_path / "copy", OWNER)
    assert [(stray.rank, stray.home) for stray in strays] == [("g.0.3", str(home))]
    assert alive(status.pid)


def test_strays_of_a_folder_that_is_gone_are_ended_with_all_they_started(home: Path, tmp_path: Path) -> None:
    text = f"setsid sh -c 'trap \"\" TERM; echo $$ > {tmp_path}/far; exec sleep 600' & exec sleep 600"
    with LocalEngine(home, {"n1": 4}, owner=OWNER) as engine:
        status = engine.launch(shell(0, text))
        server = int(engine._ask({"do": "hello"})["pid"])
    wait_for(lambda: (tmp_path / "far").exists() and (tmp_path / "far").read_text())
    far = int((tmp_path / "far").read_text())
    shutil.rmtree(home)
    strays = find_strays(home, OWNER)
    assert len(strays) == 1
    assert end_strays(strays) == []
    assert not alive(status.pid)
    assert not alive(far)
    assert find_strays(home, OWNER) == []
    end_stray_servers(home, OWNER)  # it serves a folder that nobody can reach
    deadline_s = time.monotonic() + 30.0
    while alive(server):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
