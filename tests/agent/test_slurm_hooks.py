"""The Prolog notes which job holds which GPUs, whatever users put into names and comments, and never fails."""

from __future__ import annotations

import os
import resource
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.agent.slurm_notes import SlurmNote, SlurmNotes
from tests.agent.slurm_hooks import EPILOG, JOB, PROLOG, run_hook

ROOT = os.geteuid() == 0
SHELLS = [(), *([shell, *words] for shell, *words in (["dash"], ["bash", "--posix"]) if shutil.which(shell))]
#: Bytes that a variable can hold, and many that mean something to a shell or to the reader.
TEXT = st.lists(
    st.binary(max_size=40)
    | st.sampled_from([b"\nend=1\n", b"\ngpus=7\n", b"$(touch x)", b"`id`", b"'\"\\", b"%s%n", b"*"])
).map(lambda parts: b"".join(parts).replace(b"\0", b""))


def read(folder: Path) -> dict[str, SlurmNote]:
    notes = SlurmNotes(folder)
    try:
        found = dict(notes.look())
        assert list(notes.notices()) == []
        return found
    finally:
        notes.close()


def shown(value: bytes) -> str:
    """What a reader shows of a value of a user."""
    kept = bytes(32 if byte < 32 or byte == 127 else byte for byte in value[:1024])
    return "".join(c if c.isprintable() else " " for c in kept.decode(errors="replace")).strip()


@pytest.mark.parametrize("shell", SHELLS, ids=str)
def test_a_job_is_noted_from_prolog_to_epilog(tmp_path: Path, shell: list[str]) -> None:
    folder = tmp_path / "run" / "slurm"
    assert run_hook(PROLOG, folder, JOB, shell=shell) == ""
    since_s = (folder / "1247").stat().st_mtime
    assert read(folder) == {
        "1247": SlurmNote("1247", "", (0, 2), 1000, "ada", "lab", "gpu", "", "powerflow:off", since_s)
    }
    task = {**JOB, "SLURM_JOB_ID": "1250", "SLURM_ARRAY_JOB_ID": "1247", "SLURM_ARRAY_TASK_ID": "3"}
    run_hook(PROLOG, folder, {**task, "SLURM_JOB_NAME": "train", "SLURM_JOB_GPUS": "1"}, shell=shell)
    found = read(folder)
    assert (found["1250"].array, found["1250"].name, found["1250"].gpus) == ("1247_3", "train", (1,))
    assert run_hook(EPILOG, folder, {"SLURM_JOB_ID": "1247"}, shell=shell) == ""
    assert read(folder).keys() == {"1250"}
    run_hook(EPILOG, folder, {"SLURM_JOB_ID": "1247"}, shell=shell)  # and on a node where no Prolog ran
    assert read(folder).keys() == {"1250"}


def test_only_root_reads_notes_and_everybody_reaches_the_folder_above(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "slurm"
    run_hook(PROLOG, folder, JOB)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder.parent, folder, folder / "1247")]
    assert modes == [0o755, 0o700, 0o600]


@pytest.mark.parametrize(
    "job",
    [
        {},
        {key: value for key, value in JOB.items() if key != "SLURM_JOB_GPUS"},
        {**JOB, "SLURM_JOB_GPUS": ""},
        {key: value for key, value in JOB.items() if key != "SLURM_JOB_ID"},
        {**JOB, "SLURM_JOB_ID": "../1247"},
        {**JOB, "SLURM_JOB_ID": "-f"},
        {**JOB, "SLURM_JOB_ID": "12\n47"},
        {**JOB, "SLURM_JOB_ID": "4" * 200},
    ],
)
def test_what_is_no_job_with_gpus_is_not_noted(tmp_path: Path, job: dict[str, str]) -> None:
    folder = tmp_path / "slurm"
    folder.mkdir()
    said = run_hook(PROLOG, folder, job)
    run_hook(EPILOG, folder, job)
    assert list(tmp_path.iterdir()) == [folder]
    assert list(folder.iterdir()) == []
    assert bool(said) == bool(job.get("SLURM_JOB_GPUS"))


@settings(max_examples=25, deadline=None)
@given(name=TEXT, comment=TEXT, user=TEXT)
def test_no_text_of_a_user_changes_anything_but_itself(name: bytes, comment: bytes, user: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        texts = {"SLURM_JOB_NAME": name, "SLURM_JOB_COMMENT": comment, "SLURM_JOB_USER": user}
        assert run_hook(PROLOG, folder, {**JOB, **texts}) == ""
        note = read(Path(folder))["1247"]
        assert os.listdir(folder) == ["1247"]
        assert (note.id, note.gpus, note.uid, note.account) == ("1247", (0, 2), 1000, "lab")
        assert (note.name, note.comment, note.user) == (shown(name), shown(comment), shown(user))


def test_long_texts_are_cut_and_cost_little(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for fill in (b"x", b"\n", "ü".encode()):
        run_hook(PROLOG, tmp_path, {**JOB, "SLURM_JOB_NAME": fill * 30_000, "SLURM_JOB_COMMENT": fill * 60_000})
        note = read(tmp_path)["1247"]
        assert note.comment == shown(fill * 60_000)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3.0, "more than a second of CPU each"


def test_a_prolog_that_runs_again_keeps_the_time_and_a_requeued_job_has_a_new_one(tmp_path: Path) -> None:
    run_hook(PROLOG, tmp_path, JOB)
    os.utime(tmp_path / "1247", (1_000.0, 1_000.0))
    run_hook(PROLOG, tmp_path, JOB)
    assert read(tmp_path)["1247"].since_s == 1_000.0
    run_hook(PROLOG, tmp_path, {**JOB, "SLURM_JOB_RESTART_COUNT": "1", "SLURM_JOB_GPUS": "1"})  # whose Epilog was lost
    note = read(tmp_path)["1247"]
    assert note.gpus == (1,)
    assert note.since_s > 1_000.0
    assert os.listdir(tmp_path) == ["1247"]


def test_an_epilog_deletes_what_a_killed_prolog_has_left(tmp_path: Path) -> None:
    (tmp_path / ".1247.abcdef").touch()
    (tmp_path / ".12470.abcdef").touch()
    run_hook(EPILOG, tmp_path, JOB)
    assert os.listdir(tmp_path) == [".12470.abcdef"]


@pytest.mark.parametrize("kind", ["file", "link", "link above", "relative", "note is a folder", "another user's"])
def test_a_place_that_is_not_as_it_should_be_gets_no_note(tmp_path: Path, kind: str) -> None:
    folder, elsewhere = tmp_path / "run" / "slurm", tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder.parent.mkdir()
    told: Path | str = folder
    if kind == "file":
        folder.touch()
    elif kind == "link":
        folder.symlink_to(elsewhere)
    elif kind == "link above":
        folder.parent.rmdir()
        folder.parent.symlink_to(elsewhere)
        (elsewhere / "slurm").mkdir()
    elif kind == "relative":
        told = os.path.relpath(folder)
    elif kind == "note is a folder":
        (folder / "1247" / "mine").mkdir(parents=True)
    elif not ROOT:
        pytest.skip("only root can give a folder away")
    else:
        folder.mkdir()
        shutil.chown(folder, "nobody")
    before = sorted(tmp_path.rglob("*"))
    said = run_hook(PROLOG, told, JOB)
    run_hook(EPILOG, told, JOB)
    assert said.startswith("powerflow-prolog: job 1247 was not noted: ")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(not ROOT, reason="mounting needs root")
@pytest.mark.parametrize(
    ("mount", "why"),
    [
        ("-o ro", "cannot be written"),
        ("-o nr_inodes=1", "cannot be written"),
        ("-o size=4k", "is full"),
    ],
)
def test_a_disk_that_takes_nothing_gets_no_note(tmp_path: Path, mount: str, why: str) -> None:
    fill = "head -c 4096 /dev/zero >full || :" if "size" in mount else ":"
    script = f'mount -t tmpfs {mount} tmpfs "$0"; cd "$0"; {fill}; "$1"; echo $?; "$2"; echo $?; ls -A'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, str(tmp_path), str(PROLOG), str(EPILOG)],
        env={"POWERFLOW_SLURM_DIR": str(tmp_path), "PATH": "/usr/bin:/bin", **JOB},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert why in done.stderr
    assert done.stdout.split() == ["0", "0", *(["full"] if "size" in mount else [])]


@pytest.mark.skipif(not ROOT or None in map(shutil.which, ("setpriv", "dash")), reason="needs root, setpriv and dash")
def test_a_machine_that_starts_no_process_gets_no_note() -> None:
    user = 1_000_000_000 + os.getpid()  # has no other process
    limited = ["prlimit", "--nproc=1", "setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "dash"]
    with tempfile.TemporaryDirectory(dir="/tmp") as place:  # pytest's folders are closed to other users
        os.chmod(place, 0o755)
        folder = Path(place) / "slurm"
        folder.mkdir()
        os.chown(folder, user, user)
        said = run_hook(Path(shutil.copy(PROLOG, place)), folder, JOB, shell=limited)
        assert "annot fork" in said
        assert os.listdir(folder) == []
        (folder / "1247").touch()
        run_hook(Path(shutil.copy(EPILOG, place)), folder, JOB, shell=limited)
        assert os.listdir(folder) == ["1247"], "it has started a process"
