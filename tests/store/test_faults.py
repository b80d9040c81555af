"""What goes wrong with databases: each time one clear line, nothing half-written, and all well afterwards."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from powerflow.api.job_spec import JobSpec
from powerflow.api.records import JobState
from powerflow.errors import InputError
from powerflow.store.database import StoreError
from powerflow.store.failures import postgresql_failure
from powerflow.store.models import Intent, JobUpdate, Seen
from powerflow.store.store import Store
from tests.store.databases import Postgres
from tests.store.test_store import SEEN

SPEC = JobSpec(run="python train.py")


def fails(action: Callable[[], object], match: str, *, retry: bool) -> StoreError:
    with pytest.raises(StoreError, match=match) as caught:
        action()
    assert caught.value.retry is retry
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1
    return caught.value


# --- URLs ---


@pytest.mark.parametrize(
    "url",
    ["", "state.db", "sqlite://", "sqlite:///:memory:", "mysql://h/d", "postgresql://h:x/d"],
)
def test_a_url_that_names_no_database(url: str) -> None:
    with pytest.raises(InputError) as caught:
        Store(url)
    assert "write sqlite:///path" in str(caught.value)


# --- SQLite ---


def test_the_file_and_its_folder_are_the_owners_alone(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/new/state.db")
    store.submit(SPEC, "ada", 1.0)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()}
    store.close()
    assert modes == {"state.db": 0o600, "state.db-wal": 0o600, "state.db-shm": 0o600}
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["100% a%41?mode=ro&x=#1", 'it\'s a "päth"'])
def test_a_path_is_taken_as_it_stands(tmp_path: Path, name: str) -> None:
    store = Store(f"sqlite:///{tmp_path}/{name}/{name}.db")
    store.submit(SPEC, "ada", 1.0)
    store.close()
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.db")] == [f"{name}/{name}.db"]


def test_opening_a_database_again_leaves_the_locks_of_the_first(sqlite_url: str, tmp_path: Path) -> None:
    """POSIX drops all locks of a process on a file when the process closes that file, however it was opened."""
    first = Store(sqlite_url)
    job, _ = first.submit(SPEC, "ada", 1.0)
    Store(sqlite_url).close()
    other = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM jobs').fetchall(); c.close()"
    )
    subprocess.run([sys.executable, "-c", other, tmp_path / "state.db"], check=True)
    assert (tmp_path / "state.db-wal").exists(), "the other took itself for the last"
    assert first.submit(SPEC, "ada", 2.0)[0].id == "2"
    again = Store(sqlite_url)
    assert [stored.id for stored in again.active()] == [job.id, "2"]
    again.close()
    first.close()


def test_every_connection_waits_for_the_disk(sqlite_url: str) -> None:
    store = Store(sqlite_url)
    with store._database.read() as connection:
        pragmas = ("journal_mode", "synchronous", "foreign_keys")
        assert [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas] == ["wal", 2, 1]
    store.close()


def test_a_locked_database_can_be_read_and_written_again_later(sqlite_url: str, tmp_path: Path) -> None:
    store = Store(sqlite_url, wait_s=0.1)
    job, _ = store.submit(SPEC, "ada", 1.0)
    other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    fails(lambda: store.submit(SPEC, "ada", 2.0), "locked", retry=True)
    fails(lambda: store.move(job.id, JobState.RUNNING, 2.0), "locked", retry=True)
    fails(lambda: store.lease.claim("a", 1.0, 2.0), "locked", retry=True)
    assert [stored.id for stored in store.active()] == [job.id]
    other.execute("ROLLBACK")
    other.close()
    assert store.submit(SPEC, "ada", 3.0)[0].id == "2"
    assert store.job(job.id).state is JobState.QUEUED
    store.close()


def fill(store: Store) -> int:
    """Submit until it fails; how many were acknowledged."""
    large = JobSpec(run="x" * 10_000)
    acknowledged: list[str] = []

    def submit_on() -> None:
        while len(acknowledged) < 10_000:
            acknowledged.append(store.submit(large, "ada", 1.0)[0].id)

    fails(submit_on, "full", retry=True)
    assert len(acknowledged) > 3
    return len(acknowledged)


def test_a_database_that_may_not_grow_keeps_what_it_acknowledged(sqlite_url: str) -> None:
    from sqlalchemy import event

    store = Store(sqlite_url)
    pages = [60]
    event.listen(
        store._database._engine,
        "checkout",
        lambda connection, _record, _proxy: connection.execute(f"PRAGMA max_page_count = {pages[0]}"),
    )
    acknowledged = fill(store)
    fails(lambda: store.observations.add([Seen("c" * 50_000, SEEN, "1", 1.0, 1.0)] * 10), "full", retry=True)
    assert [job.id for job in store.active()] == [str(i + 1) for i in range(acknowledged)]
    assert len(store.events(limit=1000).items) == acknowledged
    assert store.observations.all() == []
    pages[0] = 10_000
    assert store.submit(SPEC, "ada", 2.0)[0].id == str(acknowledged + 1)
    store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("only root can mount a small file system")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=1m", "powerflow-test", folder], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"cannot mount a small file system: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_keeps_what_it_acknowledged(small_disk: Path) -> None:
    store = Store(f"sqlite:///{small_disk}/state.db")
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"\0" * 400_000)
    store.submit(SPEC, "ada", 1.0)
    acknowledged = 1 + fill(store)
    for _ in range(3):
        fails(lambda: store.update([JobUpdate("1", reason="r" * 100_000)]), "full", retry=True)
    assert len(store.active()) == acknowledged, "reading goes on"
    ballast.unlink()
    assert store.submit(SPEC, "ada", 2.0)[0].id == str(acknowledged + 1)
    assert store.job("1").reason == ""
    store.close()
    again = Store(f"sqlite:///{small_disk}/state.db")
    assert len(again.active()) == acknowledged + 1
    assert len(again.events(limit=1000).items) == acknowledged + 1
    again.close()


def test_a_new_database_on_a_full_disk_leaves_nothing_half_made(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"\0" * (1024 * 1024 - 40_960))
    fails(lambda: Store(f"sqlite:///{small_disk}/state.db"), "full", retry=True)
    ballast.unlink()
    store = Store(f"sqlite:///{small_disk}/state.db")
    assert store.submit(SPEC, "ada", 1.0)[0].id == "1"
    store.close()


@pytest.mark.parametrize(
    "content", [b"not a database, but long enough to be looked at " * 100, b"SQLite format 3\0" + b"\xff" * 8192]
)
def test_a_file_that_is_no_database(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(content)
    fails(lambda: Store(f"sqlite:///{path}"), r"state.db: is (not a database|damaged)", retry=False)
    assert path.read_bytes() == content, "it may be somebody's"


def test_a_damaged_file(sqlite_url: str, tmp_path: Path) -> None:
    store = Store(sqlite_url)
    for _ in range(200):
        store.submit(JobSpec(run="x" * 3000), "ada", 1.0)
    store.close()
    path = tmp_path / "state.db"
    content = bytearray(path.read_bytes())
    whole = 4096 * 40  # the definitions of the tables: it can still be opened
    content[whole:] = random.Random(1).randbytes(len(content) - whole)
    path.write_bytes(content)
    store = Store(sqlite_url)
    fails(store.active, "damaged", retry=False)
    store.close()


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    fails(lambda: Store(f"sqlite:///{tmp_path}"), "cannot be opened", retry=False)


def test_no_right_to_the_file(sqlite_url: str, tmp_path: Path) -> None:
    if os.geteuid() == 0:  # root may do everything: become somebody else before asking
        program = (
            "import os, sys\nfrom powerflow.store.database import StoreError\n"
            "from powerflow.store.store import Store\nos.setgid(65534)\nos.setuid(65534)\n"
            "try: Store(sys.argv[1])\nexcept StoreError as error: print(error.retry, error)"
        )
        for folder in (tmp_path, *tmp_path.parents[:2]):
            folder.chmod(0o755)
        command = [sys.executable, "-c", program, sqlite_url]
        assert (
            subprocess.check_output(command, text=True) == f"False {sqlite_url}: cannot be opened (Permission denied)\n"
        )
    else:
        (tmp_path / "state.db").chmod(0)
        fails(lambda: Store(sqlite_url), "Permission denied", retry=False)


def test_a_file_that_may_only_be_read(sqlite_url: str) -> None:
    from sqlalchemy import event

    store = Store(sqlite_url)
    event.listen(store._database._engine, "checkout", lambda c, _r, _p: c.execute("PRAGMA query_only = ON"))
    fails(lambda: store.submit(SPEC, "ada", 1.0), "may not be written", retry=False)
    store.close()


# --- PostgreSQL ---


def test_a_server_that_goes_away_and_comes_back(postgres: Postgres, postgres_url: str) -> None:
    store = Store(postgres_url, wait_s=2.0)
    store.submit(SPEC, "ada", 1.0)
    postgres.stop()
    try:
        for action in (lambda: store.submit(SPEC, "ada", 2.0), store.active, lambda: store.put("a", 1)):
            fails(action, "cannot be reached|went away", retry=True)
    finally:
        postgres.start()
    assert store.submit(SPEC, "ada", 3.0)[0].state is JobState.QUEUED
    assert len(store.active()) == 2
    store.close()


def test_a_server_that_ends_our_connections(postgres: Postgres, postgres_url: str) -> None:
    store = Store(postgres_url)

    def write() -> None:
        with store._database.write() as connection:
            mine = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
            connection.exec_driver_sql("INSERT INTO settings VALUES ('half', '1')")
            postgres.execute(f"SELECT pg_terminate_backend({mine}, 10000)")
            connection.exec_driver_sql("SELECT 1")

    fails(write, "went away|cannot be reached", retry=True)
    assert store.get("half") is None
    store.put("whole", 1)
    assert store.get("whole") == 1
    store.close()


def test_a_lock_that_another_writer_holds(postgres_url: str) -> None:
    store, other = Store(postgres_url, wait_s=0.2), Store(postgres_url)
    with other._database.write():
        fails(lambda: store.submit(SPEC, "ada", 1.0), "locked", retry=True)
        assert store.active() == []
    assert store.submit(SPEC, "ada", 2.0)[0].user == "ada"
    store.close()
    other.close()


def test_what_a_server_refuses_is_said_without_the_password(postgres: Postgres) -> None:
    wrong = fails(lambda: Store(postgres.url("postgres", "secret-word")), "refuses the login", retry=False)
    missing = fails(lambda: Store(postgres.url("no_such")), "does not exist", retry=False)
    nobody = fails(lambda: Store("postgresql://u:secret-word@127.0.0.1:1/x"), "cannot be reached", retry=True)
    for error in (wrong, missing, nobody):
        assert "secret-word" not in str(error)
        assert postgres.password not in str(error)


@pytest.mark.parametrize(
    ("state", "retry"),
    [("53100", True), ("53300", True), ("25006", True), ("40001", True), ("XX001", False), ("42P01", False)],
)
def test_what_may_pass_on_postgresql(state: str, retry: bool) -> None:
    error = Exception("could not extend file\nDETAIL: more")
    error.sqlstate = state  # type: ignore[attr-defined]
    what, may_pass = postgresql_failure(error)
    assert may_pass is retry
    assert what.endswith("(could not extend file)")


# --- both ---


def test_a_transaction_that_raises_leaves_nothing(store: Store) -> None:
    def write() -> None:
        with store._database.write() as connection:
            connection.exec_driver_sql("INSERT INTO settings VALUES ('half', '1')")
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        write()
    assert store.get("half") is None
    store.put("half", 2)


SUBMITTER = """
import sys
from powerflow.api.job_spec import JobSpec
from powerflow.store.models import Intent
from powerflow.store.store import Store
store = Store(sys.argv[1])
while True:
    job, _ = store.submit(JobSpec(run="x" * 2000), "ada", 1.0, key=None)
    print(job.id, flush=True)
    store.intents.add([Intent(job.id, 1, "A100", (("n0", (0,)),), 1410.0)], 1.0)
    print(f"{job.id} intended", flush=True)
"""


def test_what_was_acknowledged_before_a_kill_is_there_afterwards(url: str) -> None:
    draw = random.Random(7)
    acknowledged: set[str] = set()
    intended: set[str] = set()
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", SUBMITTER, url], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(draw.randrange(1, 200)):
            _note(process.stdout.readline(), acknowledged, intended)
        process.send_signal(signal.SIGKILL)
        for line in process.stdout:  # what it said before it died
            if line.endswith("\n"):
                _note(line, acknowledged, intended)
        process.stdout.close()
        assert process.wait(60.0) == -signal.SIGKILL
        store = Store(url)
        jobs = {job.id for job in store.active()}
        gangs = {intent.job_id for intent in store.intents.active()}
        events = store.events(limit=10_000).items
        store.close()
        assert acknowledged <= jobs
        assert intended <= gangs
        assert len(jobs - acknowledged) <= 2, "at most the one in flight at each kill"
        assert {event.job_id for event in events} == jobs, "each with its event"


def _note(line: str, acknowledged: set[str], intended: set[str]) -> None:
    words = line.split()
    assert words, "it ended by itself"
    (intended if words[1:] else acknowledged).add(words[0])


def test_an_intent_outlives_a_store(url: str) -> None:
    store = Store(url)
    store.submit(SPEC, "ada", 1.0)
    intent = Intent("1", 7, "A100", (("n0", (0, 2)), ("n1", (1,))), 1410.0, "why")
    store.intents.add([intent], 1.0)
    store.close()
    again = Store(url)
    assert again.intents.active() == [intent]
    again.close()
