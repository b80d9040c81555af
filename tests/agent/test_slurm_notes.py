"""Notes of Slurm's Prolog are found when they come and go, and what is no note is ignored and said."""

from __future__ import annotations

import os
import select
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.agent import slurm_notes
from powerflow.agent.slurm_notes import MOST_BYTES, SlurmNotes
from powerflow.errors import InputError
from powerflow.osutil import watches
from tests.agent.slurm_hooks import EPILOG, JOB, PROLOG, run_hook

NOTE = """format=1
job=7
array_job=
array_task=
restart=0
gpus=3,1
visible=3,1
uid=1000
user=ada
account=lab
partition=gpu
name=
comment=
end=1
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "slurm"
    path.mkdir(parents=True, mode=0o700)
    return path


@pytest.fixture
def notes(tmp_path: Path) -> Iterator[SlurmNotes]:
    notes = SlurmNotes(tmp_path / "run" / "slurm")
    yield notes
    notes.close()


def put(folder: Path, name: str, text: str = NOTE) -> None:
    (folder / name).write_text(text.replace("job=7", f"job={name}"))


def tells(notes: SlurmNotes) -> bool:
    """True if the descriptor says that there is news, and there is."""
    readable, _, _ = select.select([notes.fileno()], [], [], 0)
    return bool(readable) and notes.changed()


# -- news --------------------------------------------------------------------------------------------------------------


def test_every_prolog_and_epilog_is_news(folder: Path, notes: SlurmNotes) -> None:
    assert notes.changed(), "nobody has looked yet"
    assert not notes.changed()
    run_hook(PROLOG, folder, JOB)
    assert tells(notes)
    assert not notes.changed()
    assert notes.look().keys() == {"1247"}
    run_hook(EPILOG, folder, JOB)
    assert tells(notes)
    assert notes.look() == {}
    run_hook(EPILOG, folder, JOB)
    assert not notes.changed()


def test_a_folder_that_appears_later_is_found(tmp_path: Path, notes: SlurmNotes) -> None:
    assert notes.changed()
    assert (notes.look(), notes.notices()) == ({}, ())
    (tmp_path / "other").mkdir()
    assert not notes.changed()
    run_hook(PROLOG, tmp_path / "run" / "slurm", JOB)
    assert tells(notes)
    assert notes.look().keys() == {"1247"}
    run_hook(EPILOG, tmp_path / "run" / "slurm", JOB)
    assert tells(notes)


def test_a_folder_that_goes_and_comes_back_is_followed(tmp_path: Path, folder: Path, notes: SlurmNotes) -> None:
    assert notes.changed()
    for go in (lambda: shutil.rmtree(folder), lambda: folder.rename(tmp_path / "moved")):
        put(folder, "7")
        assert tells(notes)
        go()
        assert tells(notes)
        assert notes.look() == {}
        folder.mkdir(mode=0o700)
        assert tells(notes)
        put(folder, "8")
        assert tells(notes)
        assert notes.look().keys() == {"8"}
        (folder / "8").unlink()


def test_a_folder_above_that_is_replaced_is_found_with_the_next_look(
    tmp_path: Path, folder: Path, notes: SlurmNotes
) -> None:
    assert notes.changed()
    folder.parent.rename(tmp_path / "old")
    folder.mkdir(parents=True, mode=0o700)
    assert notes.look() == {}
    put(folder, "7")
    assert tells(notes)


def test_what_cannot_be_watched_is_always_news(
    folder: Path, notes: SlurmNotes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, mask: int) -> int:
        raise OSError(28, "No space left on device")

    assert notes.changed()
    monkeypatch.setattr(notes._notify, "add_watch", refuse)
    shutil.rmtree(folder)
    assert notes.changed()
    assert notes.changed()
    folder.mkdir(mode=0o700)
    put(folder, "7")
    assert notes.look().keys() == {"7"}
    monkeypatch.undo()
    assert notes.changed(), "it is watched from now on"
    assert not notes.changed()


def test_a_kernel_that_watches_nothing_more_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*, nonblocking: bool) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(watches, "INotify", refuse)
    with pytest.raises(InputError, match="no more inotify instances") as refused:
        SlurmNotes(folder)
    assert refused.value.exit_code == 1


# -- what is no note ---------------------------------------------------------------------------------------------------


def test_a_whole_note_is_read(folder: Path, notes: SlurmNotes) -> None:
    put(folder, "7")
    os.utime(folder / "7", (1000.25, 1000.25))
    (note,) = notes.look().values()
    assert (note.id, note.gpus, note.uid, note.user, note.since_s) == ("7", (1, 3), 1000, "ada", 1000.25)
    assert notes.notices() == ()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not of format 1"),
        (NOTE.replace("format=1", "format=2"), "not of format 1"),
        (NOTE[:-1], "not whole"),
        (NOTE[:60], "not whole"),
        (NOTE.replace("uid=1000\n", ""), "not whole"),
        (NOTE.replace("uid=1000\n", "uid=1000\nuid=0\n"), "not whole"),
        (NOTE.replace("comment=\n", "comment=\ngpus=7\n"), "not whole"),
        (NOTE.replace("job=7", "job=8"), "another job"),
        (NOTE.replace("gpus=3,1", "gpus="), "no numbers"),
        (NOTE.replace("gpus=3,1", "gpus=GPU-9d71"), "no numbers"),
        (NOTE.replace("gpus=3,1", "gpus=1,99999"), "no numbers"),
        (NOTE.replace("gpus=3,1", "gpus=١"), "no numbers"),
        (NOTE.replace("visible=3,1", "visible=MIG-1f3c,MIG-77aa"), "MIG"),
        ("x" * (MOST_BYTES + 1), "larger"),
    ],
)
def test_a_file_that_is_no_note_is_said(folder: Path, notes: SlurmNotes, text: str, why: str) -> None:
    put(folder, "5")
    (folder / "7").write_text(text)
    assert notes.look().keys() == {"5"}
    (notice,) = notes.notices()
    assert notice.startswith(f"Slurm's notes, {folder}: 7 is ignored: ")
    assert why in notice


def _link(path: Path) -> None:
    (path.parent.parent / "elsewhere").write_text(NOTE)
    path.symlink_to(path.parent.parent / "elsewhere")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))


def _foreign(path: Path) -> None:
    path.write_text(NOTE)
    shutil.chown(path, "nobody")


def _writable(path: Path) -> None:
    path.write_text(NOTE)
    path.chmod(0o666)


@pytest.mark.parametrize("make", [_link, os.mkfifo, Path.mkdir, _socket, _foreign, _writable])
def test_what_root_has_not_written_there_is_ignored(
    folder: Path, notes: SlurmNotes, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    if make is _foreign and os.geteuid():
        pytest.skip("only root can give a file away")
    monkeypatch.chdir(folder)  # names of sockets are short
    put(folder, "5")
    make(folder / "7")
    put(folder, "name\x1b[31m")
    put(folder, "07")
    put(folder, ".6.temp")
    assert notes.look().keys() == {"5"}
    assert len(notes.notices()) == 3
    assert all(text.isprintable() for text in notes.notices())


@pytest.mark.parametrize("kind", ["link", "file", "writable", "foreign"])
def test_a_folder_in_which_others_can_write_is_ignored(tmp_path: Path, folder: Path, kind: str) -> None:
    put(folder, "7")
    told = folder
    if kind == "link":
        told = tmp_path / "link"
        told.symlink_to(folder)
    elif kind == "file":
        told = folder / "7"
    elif kind == "writable":
        folder.chmod(0o777)
    elif os.geteuid():
        pytest.skip("only root can give a folder away")
    else:
        shutil.chown(folder, "nobody")
    notes = SlurmNotes(told)
    assert notes.look() == {}
    assert len(notes.notices()) == 1
    notes.close()


def test_a_folder_full_of_files_costs_little(folder: Path, notes: SlurmNotes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_notes, "_MOST_FILES", 30)
    for number in range(40):
        (folder / f"no {number}").touch()
    assert notes.look() == {}
    assert len(notes.notices()) == 20
    assert "more than 30 files" in notes.notices()[0]


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.integers(0, len(NOTE)), st.integers(0, len(NOTE)))
def test_no_content_raises_an_error_or_fools_the_reader(put: bytes, start: int, length: int) -> None:
    content = NOTE.encode()
    content = content[:start] + put + content[start + length :]
    try:
        note = slurm_notes._parse("7", content, 0.0)
    except slurm_notes._Ignored:
        return
    assert note.id == "7"
    assert note.gpus
    for text in (note.user, note.account, note.partition, note.name, note.comment):
        assert text.isprintable()
