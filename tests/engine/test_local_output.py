"""The file that a user names for a rank's output, in addition to its log."""

import os
import pwd
from dataclasses import replace
from pathlib import Path

import pytest

from powerflow.engine.local.output_file import CopiedLog, Handed, open_output
from powerflow.engine.protocol import RankName, RankSpec
from powerflow.testing.engine_conformance import ended, whole_log
from tests.engine.conftest import LocalPlace
from tests.engine.test_local_confinement import NOBODY, open_to_all

PATH = {"PATH": "/usr/bin:/bin"}


def spec(directory: Path, output: str, *command: str) -> RankSpec:
    return RankSpec(RankName("g", 0, 0), "n1", command, PATH, str(directory), output=output)


def test_all_ranks_append_to_the_file_and_their_logs_have_the_same(place: LocalPlace, tmp_path: Path) -> None:
    engine = place()
    first = spec(tmp_path, "out.txt", "sh", "-c", "echo one; exec >/dev/null; echo hidden")
    second = replace(first, name=RankName("g", 1, 0), command=("echo", "two"))
    for each in (first, second):
        engine.launch(each)
        ended(engine, each.name)
    assert (tmp_path / "out.txt").read_text() == "one\ntwo\n"
    assert whole_log(engine, first.name) == b"one\n"


def test_a_script_in_the_preloaded_interpreter_writes_it_too(place: LocalPlace, tmp_path: Path) -> None:
    import sys

    (tmp_path / "s.py").write_text("print('from python')")
    rank = replace(spec(tmp_path, "out.txt", sys.executable, "s.py"), python=True)
    engine = place("json")
    engine.launch(rank)
    assert ended(engine, rank.name).code == 0
    assert (tmp_path / "out.txt").read_text() == "from python\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run ranks as another user")
def test_the_file_belongs_to_the_user_who_has_no_other_rights(place: LocalPlace, tmp_path: Path) -> None:
    open_to_all(tmp_path)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, pwd.getpwnam(NOBODY).pw_uid, -1)
    engine = place()
    good = replace(spec(theirs, "out.txt", "echo", "hello"), user=NOBODY)
    bad = replace(good, name=RankName("g", 1, 0), output=str(tmp_path / "root-only.txt"))
    for each in (good, bad):
        engine.launch(each)
        assert ended(engine, each.name).code == 0
    assert (theirs / "out.txt").stat().st_uid == pwd.getpwnam(NOBODY).pw_uid
    assert not (tmp_path / "root-only.txt").exists()
    said = whole_log(engine, bad.name).decode()
    assert said == f"powerflow: cannot write to {tmp_path}/root-only.txt: Permission denied\nhello\n"


def test_a_pipe_that_nobody_reads_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "No such device or address" in open_output(str(tmp_path / "pipe")).why


def test_a_file_that_takes_no_more_is_noted_once_in_the_log(tmp_path: Path) -> None:
    log = CopiedLog(tmp_path, Handed(os.open("/dev/full", os.O_WRONLY), ""))
    log.write(b"a\n")
    log.write(b"b\n")
    (file,) = tmp_path.glob("log-*")
    assert file.read_text() == "a\npowerflow: output is missing in its file: No space left on device\nb\n"
