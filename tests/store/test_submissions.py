"""Arrays, and the environment that comes with a submission."""

from __future__ import annotations

from sqlalchemy import func, select

from powerflow.api.job_spec import JobSpec
from powerflow.api.pages import RecordFilter
from powerflow.api.records import JobState
from powerflow.store.schema import environments
from powerflow.store.store import Store

SHELL = {"PATH": "/home/ada/venv/bin", "HF_TOKEN": "s3cret"}


def kept(store: Store) -> int:
    with store._database.read() as connection:
        return int(connection.scalar(select(func.count()).select_from(environments)) or 0)


def test_the_tasks_of_an_array_are_jobs_in_a_row(store: Store) -> None:
    store.submit(JobSpec(run="x"), "ada", 1.0)
    first, created = store.submit(JobSpec(run="x", array="5,7,9%2"), "ada", 1.0, "key")
    assert created
    ids = store.array(first.id)
    assert ids == [str(int(first.id) + more) for more in range(3)]
    assert [(job.array_id, job.array_task) for job in map(store.job, ids)] == [
        (first.id, 5),
        (first.id, 7),
        (first.id, 9),
    ]
    assert store.submit(JobSpec(run="x", array="5,7,9%2"), "ada", 2.0, "key") == (first, False)
    assert len(store.jobs().items) == 4
    assert [store.events(only=RecordFilter(job_id=job)).items[0].kind for job in ids] == ["submitted"] * 3
    assert store.array("1") == []


def test_an_environment_is_kept_once_apart_from_jobs_and_goes_with_the_last_of_them(store: Store) -> None:
    spec = JobSpec(run="x", shell_env=SHELL)
    first, second = (store.submit(spec, "ada", 1.0)[0] for _ in range(2))
    assert kept(store) == 1
    assert first.spec.shell_env == {}, "it is in no answer"
    assert dict(store.environments.of(first.id)) == SHELL
    store.move(first.id, JobState.CANCELLED, 2.0)
    assert store.environments.of(first.id) == {}
    assert dict(store.environments.of(second.id)) == SHELL
    store.move(second.id, JobState.CANCELLED, 2.0)
    assert kept(store) == 0


def test_a_repeated_submission_is_known_whatever_its_shell_had(store: Store) -> None:
    job, _ = store.submit(JobSpec(run="x", shell_env=SHELL), "ada", 1.0, "key")
    again, created = store.submit(JobSpec(run="x", shell_env={**SHELL, "A": "1"}), "ada", 2.0, "key")
    assert (again.id, created) == (job.id, False)
    assert dict(store.environments.of(job.id)) == SHELL


def test_the_tasks_of_an_array_have_names_of_their_own(store: Store) -> None:
    first, _ = store.submit(JobSpec(run="x", array="0-1", name="sweep"), "ada", 1.0)
    other, _ = store.submit(JobSpec(run="x", array="7"), "ada", 1.0)
    assert [store.job(job).name for job in (*store.array(first.id), other.id)] == [
        "sweep[0]",
        "sweep[1]",
        f"job-{other.id}[7]",
    ]
