"""A store, a state directory and a machine that belong together; each of them exchanged for an older one."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from powerflow.api.job_spec import JobSpec
from powerflow.errors import InputError
from powerflow.store.high_marks import Marks
from powerflow.store.pairing import SKIPPED, SKIPPED_PER_S, Pair, pair
from powerflow.store.store import Store

SPEC = JobSpec(run="true")


class Place:
    """A state directory with its database, as an operator sees them."""

    def __init__(self, state: Path, template: Path, database: Path | None = None) -> None:
        self.state = state
        self.template = template
        self.database = database or state / "powerflow.db"
        state.mkdir(exist_ok=True)
        self.store: Store | None = None
        self.now_s = 1e9

    def start(self, *, restored: bool = False, moves: bool = False) -> Pair:
        if not self.database.exists():
            shutil.copy(self.template, self.database)
        self.store = Store(f"sqlite:///{self.database}")
        try:
            return pair(self.state, self.store, restored=restored, moves=moves, now_s=self.now_s)
        except InputError:
            self.stop()
            raise

    def submit(self) -> int:
        assert self.store is not None
        return int(self.store.submit(SPEC, "ada", self.now_s)[0].id)

    def stop(self) -> None:
        assert self.store is not None
        self.store.close()

    def back_up(self, target: Path) -> None:
        with closing(sqlite3.connect(self.database)) as source, closing(sqlite3.connect(target)) as copy:
            source.backup(copy)

    def restore(self, backup: Path) -> None:
        for file in self.state.glob("powerflow.db*"):
            file.unlink()
        shutil.copy(backup, self.database)


@pytest.fixture
def place(tmp_path: Path, sqlite_template: Path) -> Place:
    return Place(tmp_path / "state", sqlite_template)


def test_what_belongs_together_is_said_nothing_of(place: Place) -> None:
    first = place.start()
    assert [place.submit(), place.submit()] == [1, 2]
    for _ in range(2):
        place.stop()
        assert place.start() == first
    assert place.submit() == 3
    assert (place.state / "pair.json").stat().st_mode & 0o077 == 0
    assert (place.state / "marks").stat().st_mode & 0o077 == 0


def test_a_directory_of_an_earlier_version_is_taken_over(place: Place) -> None:
    place.start()
    place.submit()
    assert place.store is not None
    name = place.store.get("store id")
    with place.store._database.write() as connection:
        connection.exec_driver_sql("DELETE FROM settings WHERE key IN ('pair', 'beat')")
    place.stop()
    (place.state / "pair.json").unlink()
    (place.state / "marks").unlink()
    (place.state / "store.id").write_text(name + "\n")
    assert place.start() == Pair(name)
    assert place.submit() == 2


def test_numbers_go_on_after_an_older_database_was_restored(place: Place, tmp_path: Path) -> None:
    place.start()
    place.submit()
    place.back_up(tmp_path / "backup.db")
    assert [place.submit(), place.submit()] == [2, 3]
    place.stop()
    place.restore(tmp_path / "backup.db")
    notices = place.start().notices
    assert any("older than the state directory" in notice for notice in notices)
    assert place.store is not None
    assert [event.text for event in place.store.events().items if event.kind == "restored"] == [*notices]
    assert place.submit() == 4
    place.stop()
    assert place.start().notices == ()


def test_numbers_go_on_where_only_launched_jobs_remember_them(place: Place, tmp_path: Path) -> None:
    """The marks are gone as well; books, mailboxes and the engine's fences are there."""
    place.start()
    place.submit()
    place.back_up(tmp_path / "backup.db")
    place.stop()
    place.restore(tmp_path / "backup.db")
    (place.state / "marks").unlink()
    for name in ("gangs/7.json", "engine/fences/9", "engine/ranks/8.1.0", "jobs/6", "jobs/lost+found"):
        (place.state / name).mkdir(parents=True)
    assert place.start().notices
    assert place.submit() > 9


def test_a_write_ahead_log_that_is_lost_takes_no_number_back(place: Place) -> None:
    place.start()
    given_out = [place.submit() for _ in range(3)]
    assert (place.state / "powerflow.db-wal").stat().st_size > 0
    kept = place.database.read_bytes()  # what a kill leaves, without its log
    place.stop()
    for file in place.state.glob("powerflow.db*"):
        file.unlink()
    place.database.write_bytes(kept)
    assert any("older than the state directory" in notice for notice in place.start().notices)
    assert place.submit() not in given_out


def test_a_launch_that_the_database_lost_is_noticed(place: Place, tmp_path: Path) -> None:
    place.start()
    place.back_up(tmp_path / "backup.db")
    assert place.store is not None
    place.store.beat()
    place.stop()
    assert place.start().notices == ()
    place.stop()
    place.restore(tmp_path / "backup.db")
    assert any("older than the state directory" in notice for notice in place.start().notices)


def test_a_kill_between_the_two_marks_is_nobodys_backup(place: Place) -> None:
    place.start()
    assert place.store is not None
    place.store.put("beat", place.store.get("beat") + 1)
    place.stop()
    assert place.start().notices == ()


def test_an_older_directory_beside_its_store_is_noticed(tmp_path: Path, sqlite_template: Path) -> None:
    place = Place(tmp_path / "state", sqlite_template, tmp_path / "elsewhere.db")
    place.start()
    place.stop()
    shutil.copytree(place.state, tmp_path / "backup")
    place.start()
    assert place.store is not None
    for _ in range(3):
        place.submit()
        place.store.beat()
    place.stop()
    shutil.rmtree(place.state)
    shutil.copytree(tmp_path / "backup", place.state)
    assert any("older than its store" in notice for notice in place.start().notices)
    assert place.submit() > 3


@pytest.mark.parametrize("age_s", [0.0, 86400.0])
def test_numbers_jump_where_all_was_restored_and_nothing_remembers(place: Place, tmp_path: Path, age_s: float) -> None:
    place.start()
    place.submit()
    place.stop()
    shutil.copytree(place.state, tmp_path / "backup")
    place.start()
    place.submit()
    place.stop()
    shutil.rmtree(place.state)
    shutil.copytree(tmp_path / "backup", place.state)
    place.now_s += age_s
    assert any("copied, moved or restored" in notice for notice in place.start().notices)
    assert place.submit() == 1 + SKIPPED + int(age_s * SKIPPED_PER_S) + 1
    place.stop()
    assert place.start().notices == ()


def test_a_new_directory_for_a_store_with_jobs_is_refused(tmp_path: Path, sqlite_template: Path) -> None:
    first = Place(tmp_path / "a", sqlite_template, tmp_path / "shared.db")
    first.start()
    first.submit()
    first.stop()
    second = Place(tmp_path / "b", sqlite_template, tmp_path / "shared.db")
    with pytest.raises(InputError, match=r"is not the state directory of this store, which is .*/a; .*--restored"):
        second.start()
    first.start()  # nothing was changed
    first.stop()
    assert second.start(restored=True).notices
    assert second.submit() > 1
    second.stop()
    with pytest.raises(InputError, match="is not the state directory of this store"):
        first.start()


def test_a_new_database_beside_an_old_directory_is_refused(place: Place) -> None:
    place.start()
    place.submit()
    place.stop()
    for file in place.state.glob("powerflow.db*"):
        file.unlink()
    with pytest.raises(InputError, match="belongs to an older store; this store is new"):
        place.start()
    name = place.start(restored=True).store
    assert place.submit() > 1
    place.stop()
    assert place.start().store == name


def test_a_directory_of_another_store_is_refused(place: Place, tmp_path: Path, sqlite_template: Path) -> None:
    other = Place(tmp_path / "other", sqlite_template)
    for one in (place, other):
        one.start()
        one.stop()
    shutil.copy(other.database, place.database)
    with pytest.raises(InputError, match="belongs to another store"):
        place.start()


def test_another_machine_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("powerflow.store.pairing._machine", lambda: "here")
    place.start()
    place.stop()
    monkeypatch.setattr("powerflow.store.pairing._machine", lambda: "there")
    with pytest.raises(InputError, match="another machine"):
        place.start()
    place.start(restored=True)
    place.stop()
    assert place.start().notices == ()


def test_a_controller_without_ranks_of_its_own_may_move_in_a_shared_folder(
    place: Place, tmp_path: Path, sqlite_template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("powerflow.store.pairing._machine", lambda: "here")
    first = place.start(moves=True)
    assert place.submit() == 1
    place.stop()
    monkeypatch.setattr("powerflow.store.pairing._machine", lambda: "there")
    assert place.start(moves=True) == first
    assert place.submit() == 2  # no number is left out
    place.stop()
    copied = tmp_path / "copied"
    shutil.copytree(place.state, copied)
    monkeypatch.setattr("powerflow.store.pairing._machine", lambda: "elsewhere")
    with pytest.raises(InputError, match="another machine"):
        Place(copied, sqlite_template).start(moves=True)


def test_numbers_are_raised_on_postgresql_too(postgres_url: str, tmp_path: Path) -> None:
    store = Store(postgres_url)
    (tmp_path / "state").mkdir()
    pair(tmp_path / "state", store)
    assert store.last_number() == 0
    assert store.submit(SPEC, "ada", 1.0)[0].id == "1"
    store.raise_number(41)
    assert store.last_number() == 41
    assert store.submit(SPEC, "ada", 1.0)[0].id == "42"
    store.close()


def test_marks_never_go_back(tmp_path: Path) -> None:
    marks = Marks(tmp_path / "marks")
    marks.set(number=7, beat=2)
    marks.set(number=3, beat=1)
    assert (marks.number, marks.beat) == (7, 2)
    marks.close()
    again = Marks(tmp_path / "marks")
    assert (again.number, again.beat) == (7, 2)
    again.close()
    (tmp_path / "marks").write_bytes(os.urandom(64))
    torn = Marks(tmp_path / "marks")
    assert (torn.number, torn.beat) == (0, 0)
    torn.close()


_DEEDS = ("submit", "back up", "restore", "restore all", "lose the log", "restart")


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from(_DEEDS), max_size=9))
@example(["back up", "restore all", "submit", "restore all"])  # the backup has no event that would tell its age
def test_no_number_is_given_twice(
    tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path, deeds: list[str]
) -> None:
    home = tmp_path_factory.mktemp("pairing")
    place = Place(home / "state", sqlite_template)
    given_out: list[int] = []
    place.start()
    for deed in [*deeds, "submit"]:
        place.now_s += 1.0  # nobody submits more jobs than are skipped for each second
        match deed:
            case "submit":
                given_out.append(place.submit())
                continue
            case "back up":
                place.back_up(home / "backup.db")
                shutil.rmtree(home / "backup", ignore_errors=True)
                shutil.copytree(place.state, home / "backup", ignore=shutil.ignore_patterns("powerflow.db*"))
                continue
        place.stop()
        match deed:
            case "restore" if (home / "backup.db").exists():
                place.restore(home / "backup.db")
            case "restore all" if (home / "backup.db").exists():
                shutil.rmtree(place.state)
                shutil.copytree(home / "backup", place.state)
                place.restore(home / "backup.db")
            case "lose the log":
                for file in place.state.glob("powerflow.db-*"):
                    file.unlink()
        place.start()
    place.stop()
    assert len(set(given_out)) == len(given_out)
