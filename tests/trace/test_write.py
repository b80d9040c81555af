"""What is written is read back exactly."""

import io
import math
from dataclasses import replace
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from powerflow.cluster.spec import MOST_GPUS
from powerflow.cost.batch_range import BatchRange
from powerflow.trace.demo import demo_day
from powerflow.trace.fields import LONGEST_S
from powerflow.trace.read import read_trace
from powerflow.trace.record import JobOutcome, Trace, TraceJob
from powerflow.trace.write import write_trace

words = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8)
# beyond text and finite numbers a log holds nothing; a model and iterations stand in for a duration not known
jobs = st.builds(
    TraceJob,
    id=words.filter(bool),
    submit_s=st.floats(0, LONGEST_S),
    duration_s=st.floats(0, LONGEST_S, exclude_min=True) | st.just(math.nan),
    gpus=st.integers(1, MOST_GPUS),
    wait_s=st.none() | st.floats(0, LONGEST_S),
    model=words.filter(bool),
    global_batch=st.none() | st.integers(1, 10**9),
    iterations=st.floats(0, 1e18, exclude_min=True),
    project=words,
    name=words,
    outcome=st.sampled_from(JobOutcome),
)
ranges = st.builds(BatchRange, st.just(1), st.integers(10**9, 10**12), st.floats(0, 1e12))
changing_jobs = st.tuples(jobs, st.integers(1, 10**9), ranges).map(
    lambda made: replace(made[0], global_batch=made[1], batch_range=made[2])
)


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=st.lists(jobs | changing_jobs, min_size=1, max_size=8, unique_by=lambda job: job.id))
def test_round_trip(records: list[TraceJob], tmp_path: Path) -> None:
    records.sort(key=lambda job: job.submit_s)
    path = tmp_path / "jobs.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        write_trace(Trace("test", "test", records), stream)
    assert repr(list(read_trace(path, "csv").jobs)) == repr(records)  # by repr: nan is not itself


def test_what_was_read_is_written_byte_for_byte() -> None:
    stream = io.StringIO(newline="")
    write_trace(demo_day(), stream)
    shipped = Path(__file__).parents[2] / "src/powerflow/trace/data/demo-day.csv"
    assert stream.getvalue() == shipped.read_text(encoding="utf-8")
