"""What the store promises, on SQLite and on PostgreSQL alike."""

from __future__ import annotations

import itertools
import threading

import pytest

from powerflow.api.governance import AuditRecord
from powerflow.api.job_spec import JobSpec
from powerflow.api.pages import JobFilter, NumberedPage, RecordFilter
from powerflow.api.records import JobState, NotFound, Refused
from powerflow.cost.observation import Observation
from powerflow.errors import InputError
from powerflow.store.database import StoreError
from powerflow.store.models import Charge, Intent, JobUpdate, NodeState, Seen, StoredJob
from powerflow.store.store import Store
from tests.store.specs import PLAIN, SPEC, submit

SEEN = Observation("resnet50", "A100", gpus=2, local_batch=32, step_time_s=0.1, clock_mhz=1410.0, power_w=500.0)

Q, R, H = JobState.QUEUED, JobState.RUNNING, JobState.HELD
ENDS = (JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED)


# --- jobs ---


def test_a_submitted_job_is_all_there(url: str) -> None:
    store = Store(url)
    job, created = store.submit(SPEC, "ada", 100.5)
    assert created
    assert (job.id, job.user, job.state, job.submitted_s, job.state_since_s) == ("1", "ada", Q, 100.5, 100.5)
    assert (job.steps, job.steps_total, job.energy_j, job.failures, job.last_lines) == (0.0, 500.0, 0.0, 0, ())
    assert job.started_s is None
    assert job.spec == SPEC
    store.close()
    again = Store(url)
    assert again.job("1") == job
    again.close()


def test_a_key_makes_a_submission_idempotent(store: Store) -> None:
    first, created = store.submit(SPEC, "ada", 1.0, key="k")
    again, created_again = store.submit(SPEC, "ada", 2.0, key="k")
    assert (created, created_again, again) == (True, False, first)
    with pytest.raises(Refused, match="key 'k'"):
        store.submit(PLAIN, "ada", 3.0, key="k")
    assert store.submit(PLAIN, "bob", 3.0, key="k")[1], "keys are a user's own"
    assert store.submit(SPEC, "ada", 3.0)[1], "without a key, every submission is a new job"
    assert [job.id for job in store.active()] == ["1", "2", "3"]
    assert len(store.events().items) == 3, "a repetition is no event"


@pytest.mark.parametrize("job_id", ["7", "0", "01", "-1", "", "x", "1 ", "99999999999999999999", "٣", "1;drop"])
def test_what_is_not_there_is_not_found(store: Store, job_id: str) -> None:
    for ask in (
        lambda: store.job(job_id),
        lambda: store.move(job_id, R, 1.0),
        lambda: store.update([JobUpdate(job_id, steps=1.0)]),
        lambda: store.intents.add([Intent(job_id, 1, "A100", (), 1410.0)], 1.0),
        lambda: store.observations.add([Seen("c", SEEN, job_id, 1.0, 10.0)]),
        lambda: store.charges.add([Charge(0.0, 1.0, "gpu", job_id, 1.0, 1.0)]),
    ):
        with pytest.raises(NotFound):
            ask()


def test_lists_are_newest_first_in_pages_and_filtered(store: Store) -> None:
    for number in range(1, 24):
        spec = SPEC if number % 2 else PLAIN
        store.submit(spec, "ada" if number % 3 else "bob", float(number))
        if number % 5 == 0:
            store.move(str(number), JobState.CANCELLED, 99.0)
    every = [str(number) for number in range(23, 0, -1)]
    for limit in (1, 5, 22, 23, 24):
        got, after = [], None
        while True:
            page = store.jobs(after=after, limit=limit)
            assert len(page.items) <= limit
            got += [job.id for job in page.items]
            if page.next is None:
                break
            after = page.next
        assert got == every
    assert [job.id for job in store.jobs(JobFilter(user="bob")).items] == [i for i in every if int(i) % 3 == 0]
    assert [job.id for job in store.jobs(JobFilter(project="vision")).items] == [i for i in every if int(i) % 2]
    ended = store.jobs(JobFilter(states=[JobState.CANCELLED, JobState.FAILED], user="ada"))
    assert [job.id for job in ended.items] == ["20", "10", "5"]
    assert [job.id for job in store.active()] == [i for i in reversed(every) if int(i) % 5]


@pytest.mark.parametrize(("after", "limit"), [("x", 5), ("", 5), ("-1", 5), (None, 0), (None, -3)])
def test_a_page_that_cannot_be(store: Store, after: str | None, limit: int) -> None:
    with pytest.raises(InputError):
        store.jobs(after=after, limit=limit)


def test_every_move_there_is(store: Store) -> None:
    allowed = {(Q, R), (Q, H), (R, Q), (R, H), (H, Q)} | {(state, end) for state in (Q, R, H) for end in ENDS}
    for start, end in itertools.product(JobState, JobState):
        (job,) = submit(store)
        store.move(job, start, 2.0)
        if start is end:
            assert store.move(job, end, 3.0).state_since_s == (1.0 if start is Q else 2.0), "no change"
        elif (start, end) in allowed:
            assert store.move(job, end, 3.0).state is end
        else:
            with pytest.raises(Refused):
                store.move(job, end, 3.0)
            assert store.job(job).state is start


def test_a_life_is_noted(store: Store) -> None:
    (job,) = submit(store)
    store.move(job, R, 10.0, reason="four GPUs pay best", text="starts on n0")
    store.move(job, Q, 20.0)
    store.move(job, R, 30.0)
    ended = store.move(job, JobState.FAILED, 40.0, exit="rank 0 exited with 1", last_lines=["Traceback", "boom"])
    assert (ended.started_s, ended.ended_s, ended.state_since_s) == (10.0, 40.0, 40.0)
    assert (ended.exit, ended.reason, ended.last_lines) == (
        "rank 0 exited with 1",
        "four GPUs pay best",
        ("Traceback", "boom"),
    )
    events = store.events(only=RecordFilter(job_id=job)).items
    assert [(event.kind, event.time_s) for event in events] == [
        ("submitted", 1.0),
        ("running", 10.0),
        ("queued", 20.0),
        ("running", 30.0),
        ("failed", 40.0),
    ]
    assert events[1].text == "starts on n0"
    assert events[-1].fields == {"from": "running", "to": "failed", "exit": "rank 0 exited with 1"}


def test_an_update_changes_what_it_names_and_nothing_else(store: Store) -> None:
    one, two = submit(store, 2)
    store.update(
        [JobUpdate(one, steps=5.0, steps_total=50.0, reason="waits"), JobUpdate(two, energy_j=7.0, rescales=3)]
    )
    store.update(
        [JobUpdate(one, gpu_s=2.0, started_s=4.0), JobUpdate(two, failures=1, cost_class="c", step_time_s=0.5)]
    )
    first, second = store.job(one), store.job(two)
    assert (first.steps, first.steps_total, first.reason, first.gpu_s, first.started_s) == (
        5.0,
        50.0,
        "waits",
        2.0,
        4.0,
    )
    assert (first.energy_j, first.rescales, first.cost_class) == (0.0, 0, "")
    assert (second.energy_j, second.rescales, second.failures) == (7.0, 3, 1)
    assert (second.cost_class, second.step_time_s, second.steps, second.steps_total) == ("c", 0.5, 0.0, None)


def test_an_update_is_all_or_nothing(store: Store) -> None:
    (job,) = submit(store)
    with pytest.raises(NotFound):
        store.update([JobUpdate(job, steps=5.0), JobUpdate("9", steps=5.0)])
    assert store.job(job).steps == 0.0
    store.update([])


# --- learning ---


def test_observations_come_back_as_they_were_in_order(store: Store) -> None:
    (job,) = submit(store)
    bare = Observation("bert", "H100", gpus=1, local_batch=8, step_time_s=0.25, nodes=1, accumulation=4)
    seen = [Seen("b", SEEN, job, 5.0, 20.0), Seen("a", bare, job, 4.0, 10.0), Seen("b", SEEN, job, 5.0, 20.0)]
    store.observations.add(seen[:2])
    store.observations.add(seen[2:])
    store.observations.add([])
    assert store.observations.all() == seen


# --- nodes, events, settings ---


def test_nodes_are_remembered(store: Store) -> None:
    store.set_node("n0", "drained", "new fans", 1.0, "ops")
    store.set_node("n1", "failed", "", 2.0, "")
    store.set_node("n0", "up", "", 3.0, "ops")
    assert store.node_states() == {
        "n0": NodeState("n0", "up", "", 3.0, "ops"),
        "n1": NodeState("n1", "failed", "", 2.0, ""),
    }
    assert [event.text for event in store.events().items] == [
        "n0 set to drain by ops: new fans",
        "n1 failed",
        "n0 put back into use by ops",
    ]


def test_events_rise_and_are_read_in_pages(store: Store) -> None:
    (job,) = submit(store)
    numbers = [store.append("tick", f"tick {i}", float(i), job if i % 2 else None, i=i) for i in range(7)]
    assert numbers == sorted(set(numbers))
    page = store.events(after=numbers[0] - 1, limit=4)
    assert [event.number for event in page.items] == numbers[:4]
    assert page.after == numbers[3]
    rest = store.events(after=numbers[3], limit=4)
    assert [event.number for event in rest.items] == numbers[4:]
    assert rest.after == numbers[-1]
    assert store.events(after=rest.after, limit=4) == NumberedPage([], rest.after)
    assert [event.fields for event in store.events(only=RecordFilter(job_id=job)).items] == [
        {"user": "ada"},
        {"i": 1},
        {"i": 3},
        {"i": 5},
    ]
    with pytest.raises(InputError):
        store.events(limit=0)


def test_settings(store: Store) -> None:
    assert store.get("policy") is None
    assert store.get("policy", "prices") == "prices"
    for value in ("greedy", 3, 0.25, None, [1, 2], {"a": {"b": "λ"}}):
        store.put("policy", value)
        assert store.get("policy", "prices") == value
    with pytest.raises(ValueError):
        store.put("policy", float("nan"))


@pytest.mark.parametrize(
    "odd", ["\0", "a\0b", "\ud800", "λ_E 🔥", "'; DROP TABLE jobs; --", "", "\x1b[31m", "x" * 100_000]
)
def test_any_text_a_log_can_hold_is_kept_or_cleaned(store: Store, odd: str) -> None:
    (job,) = submit(store)
    store.update([JobUpdate(job, reason=odd)])
    store.intents.add([Intent(job, 1, "A100", (("n0", (0,)),), 1410.0, odd)], 1.0)
    store.append("odd", odd, 1.0, job, odd=odd)
    moved = store.move(job, JobState.FAILED, 2.0, exit=odd, reason=odd, last_lines=[odd, odd], text=odd)
    assert moved.last_lines == (odd, odd)
    assert moved.exit == odd.replace("\0", "\ufffd").replace("\ud800", "?")
    assert {"odd": odd} in [event.fields for event in store.events(only=RecordFilter(job_id=job)).items]


def test_threads_get_numbers_of_their_own_in_order(store: Store) -> None:
    ids: list[list[str]] = [[] for _ in range(6)]

    def work(mine: list[str]) -> None:
        for turn in range(10):
            mine.append(store.submit(PLAIN, "ada", float(turn))[0].id)
            assert store.job(mine[-1]).state is Q
            store.append("tick", "", 1.0, mine[-1])

    threads = [threading.Thread(target=work, args=(mine,)) for mine in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120.0)
    assert sorted(int(i) for mine in ids for i in mine) == list(range(1, 61))
    assert all(mine == sorted(mine, key=int) for mine in ids)
    numbers = [event.number for event in store.events(limit=1000).items]
    assert len(numbers) == 120


def test_two_submissions_with_one_key_at_once_make_one_job(url: str) -> None:
    stores = [Store(url) for _ in range(4)]
    start = threading.Barrier(4)
    made: list[tuple[str, bool]] = []

    def work(store: Store) -> None:
        start.wait(60.0)
        job, created = store.submit(SPEC, "ada", 1.0, key="once")
        made.append((job.id, created))

    threads = [threading.Thread(target=work, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    assert sorted(made) == [("1", False)] * 3 + [("1", True)]
    for store in stores:
        store.close()


def test_the_audit_can_only_be_added_to(store: Store) -> None:
    what = AuditRecord(0, 5.0, "ops", "127.0.0.1", "cap set", "cluster", {"watts": 60.0, "text": "\0 half \ud800"})
    store.govern("caps", [1], [what])
    store.note([what, what])
    assert store.get("caps") == [1]
    first = store.audit(limit=1)
    assert (first.items[0].number, first.items[0].fields, first.after) == (1, what.fields, 1)
    assert [entry.number for entry in store.audit(after=1).items] == [2, 3]
    changes = ["UPDATE audit SET action = 'nothing'", "DELETE FROM audit"]
    if store._database.is_sqlite:
        columns = "time_s, user, address, action, target, fields"
        changes.append(f"INSERT OR REPLACE INTO audit (number, {columns}) SELECT number, {columns} FROM audit")
    for change in changes:
        with pytest.raises(StoreError, match="can only be added to"), store._database.write() as connection:
            connection.exec_driver_sql(change)
    assert len(store.audit().items) == 3


def test_the_front_is_by_state_then_age_and_counts_all(store: Store) -> None:
    ids = [store.submit(SPEC, "ada", float(at))[0].id for at in range(6)]
    for job_id in ids[3:5]:
        store.intents.add([Intent(job_id, 1, "A100", (("n1", (int(job_id),)),), 1410.0)], 10.0)
    store.move(ids[0], JobState.HELD, 10.0)
    store.move(ids[5], JobState.CANCELLED, 10.0)
    order = (JobState.RUNNING, JobState.QUEUED, JobState.HELD)
    first, counts = store.front(order, 3)
    assert [job.id for job in first] == [ids[3], ids[4], ids[1]]
    assert counts == {JobState.RUNNING: 2, JobState.QUEUED: 2, JobState.HELD: 1}
    assert [job.id for job in store.front(order, 99)[0]] == [ids[i] for i in (3, 4, 1, 2, 0)]


def test_jobs_of_a_name_are_those_to_which_their_owners_gave_it(store: Store) -> None:
    trap = JobSpec(run='echo \'"name":"ジョブ","gpus":{\'', env={"name": "ジョブ", "gpus": "{"})
    for spec in (
        JobSpec(run="true", name="ジョブ"),
        trap,
        JobSpec(run="true", name="ジョブ-2"),
        JobSpec(run="true", name="A_b%"),
    ):
        store.submit(spec, "ada", 1.0)
    assert [job.id for job in store.jobs(JobFilter(name="ジョブ")).items] == ["1"]
    assert [job.id for job in store.jobs(JobFilter(name="A_b%")).items] == ["4"]
    assert store.jobs(JobFilter(name="a_b%")).items == []
    assert store.jobs(JobFilter(name='say "x"')).items == []


def test_a_job_is_completing_until_its_last_process_has_ended(store: Store) -> None:
    asked = AuditRecord(0, 20.0, "ada", "", "job cancelled", "job 1", {})
    ids = [store.submit(PLAIN, "ada", 1.0)[0].id for _ in range(4)]
    runs, stops, waits, fails = ids
    for job in (runs, fails):
        store.move(job, R, 10.0)
    found = store.move_all([(job, asked) for job in (runs, stops, waits)], JobState.CANCELLED, 20.0, {stops})
    assert [(job.state, job.completing, job.ended_s) for job in found if isinstance(job, StoredJob)] == [
        (JobState.CANCELLED, True, None),
        (JobState.CANCELLED, True, None),  # it is queued, but has processes
        (JobState.CANCELLED, False, 20.0),
    ]
    store.move(fails, JobState.FAILED, 21.0, processes=None)
    completing = [runs, stops, fails]
    assert [job.id for job in store.completing()] == completing
    more = store.submit(PLAIN, "ada", 22.0)[0].id
    active = [state for state in JobState if not state.ended]

    def listed(*states: JobState) -> list[str]:
        return [job.id for job in store.jobs(JobFilter(states=states, completing=True)).items]

    assert listed(*active) == [more, *completing[::-1]]
    assert listed(Q) == [more, *completing[::-1]]
    assert listed(JobState.CANCELLED) == [fails, waits, stops, runs]
    assert [job.id for job in store.jobs(JobFilter(states=active)).items] == [more]
    assert [job.id for job in store.ended.page(0.0, 99.0).items] == [waits]
    store.finish(runs, 25.5, 26.0)
    store.finish(runs, 99.0, 99.0)  # nothing changes
    store.finish(more, 99.0, 99.0)  # it has not ended
    assert (store.job(runs).ended_s, store.job(more).ended_s) == (25.5, None)
    assert [job.id for job in store.completing()] == [stops, fails]
    assert [job.id for job in store.ended.page(0.0, 99.0).items] == [runs, waits]
    events = store.events(only=RecordFilter(job_id=runs)).items
    assert events[-1].text == "its last process has ended, 5.5 s after the job was cancelled"
    assert [event.kind for event in events].count("ended") == 1
    with pytest.raises(NotFound):
        store.finish("99", 1.0, 1.0)


def test_an_end_may_be_noted_later_than_it_was(store: Store) -> None:
    job = store.submit(PLAIN, "ada", 1.0)[0].id
    store.move(job, R, 10.0)
    moved = store.move(job, JobState.COMPLETED, 90.0, exit="completed", text="completed, a while ago", ended_s=30.0)
    assert (moved.ended_s, moved.completing) == (30.0, False)
    told = store.events(only=RecordFilter(job_id=job)).items[-1]
    assert (told.time_s, told.text) == (90.0, "completed, a while ago")
