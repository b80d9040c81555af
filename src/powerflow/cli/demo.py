"""``powerflow demo``: train ten small models on an emulated cluster, and show how much energy and time was saved."""

from __future__ import annotations

import getpass
import math
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Annotated

import typer

from powerflow.cli.options import Json, Quiet
from powerflow.cli.output import console, print_json
from powerflow.errors import InputError
from powerflow.units import duration, energy, power

if TYPE_CHECKING:
    from rich.console import Console

    from powerflow.api.job_spec import JobSpec
    from powerflow.api.records import Top
    from powerflow.demo.jobs import Arrival
    from powerflow.demo.rehearsal import Recorded, RunOutcome
    from powerflow.live.build import LiveCluster
    from powerflow.store.models import StoredJob

CLUSTER = "2x4:A100"
#: λ_E in units of the natural price 1 / (W of a busy GPU above idle): energy counts about half as much as time.
PRICE = 0.5
INTERVAL_S = 4.0
#: Clocks are not tried out, because that would take most of the time of jobs that run half a minute.
EXPLORE_STEPS = 0
MOST_S = 170.0
#: Python's and torch's files are read from a cold disk and compiled, on a machine that may be busy.
WARM_S = 300.0
#: Largest difference between simulation and live run that is accepted, as a share (docs/live.md).
NEAR = 0.10


@dataclass(frozen=True, slots=True)
class Done:
    """Results of the demo: its jobs, how they would run in simulations, and the number and pauses of rescales."""

    jobs: list[StoredJob]
    outcomes: list[RunOutcome]
    pause_s: float
    rescales: int


def demo(
    json: Json = False,
    quiet: Quiet = False,
    keep: Annotated[Path | None, typer.Option(help="Keep the cluster's state and logs in this new directory.")] = None,
) -> None:
    """Run a cluster of eight emulated A100s on this machine, and ten small PyTorch jobs on it.

    Processes, training and rescaling are real. GPUs are emulated: a model computes the time and the watts of each step.
    At the end, the same jobs are simulated twice: as they ran, and under FIFO at maximum clock. Ctrl-C ends everything
    that was started.
    """
    from powerflow.demo.jobs import arrivals, warm_up

    screen = console(stderr=json)
    directory = _directory(keep)
    try:
        with cluster(directory) as live, _table(screen, quiet) as draw:
            if not quiet:
                screen.print("Warming up: a job of each kind trains two steps, so that the ten jobs start fast …")
            done = run_jobs(live, arrivals(), draw, first=warm_up())
    finally:
        if keep is None:
            shutil.rmtree(directory, ignore_errors=True)
    if json:
        print_json("demo", {"emulated": True, "jobs": done.jobs, "outcomes": done.outcomes, "pause_s": done.pause_s})
    elif not quiet:
        _show(done, screen)


def _directory(keep: Path | None) -> Path:
    if keep is None:
        return Path(tempfile.mkdtemp(prefix="powerflow-demo-"))
    if keep.exists():
        raise InputError("exists already", where=str(keep), fix="name a directory that does not exist")
    keep.mkdir(parents=True)
    return keep


@contextmanager
def cluster(directory: Path) -> Iterator[LiveCluster]:
    """Run a cluster inside this process.

    After the ``with`` block, all its processes have ended, and GPU clocks are restored.
    """
    from powerflow.cost.catalogue import gpu_type
    from powerflow.kernel import be_patient
    from powerflow.live.build import ClusterSettings, build
    from powerflow.live.controller_settings import ControllerSettings
    from powerflow.service.logs import json_lines

    _find_torch()
    be_patient(math.inf)  # for ten jobs, compiling would take longer than all decisions
    card = gpu_type("A100")
    with (directory / "controller.log").open("w") as log:
        live = build(
            ClusterSettings(
                state=directory,
                emulate=CLUSTER,
                energy_price=PRICE / (card.limit_w - card.idle_w),
                interval_s=INTERVAL_S,
                controller=ControllerSettings(explore_steps=EXPLORE_STEPS, save_s=1.0),
            ),
            log=json_lines(log),
        )
        try:
            live.start()
            yield live
        finally:
            # nothing is left behind, even after a second Ctrl-C
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)
            live.controller.power.finish(give_back=True)
            live.fabric.shutdown(kill=True)
            live.close()
            be_patient(0.0)
            signal.signal(signal.SIGINT, before)


def _find_torch() -> None:
    from importlib.util import find_spec

    if find_spec("torch") is None:
        raise InputError("the demo trains with PyTorch, which is not installed", fix="pip install torch", exit_code=1)


@dataclass(frozen=True, slots=True)
class _Start:
    """State of the cluster when the demo's own jobs begin.

    It consists of the ids of earlier jobs, the joules metered so far (of all GPUs, of jobs), and the time.
    """

    earlier: frozenset[str]
    metered_j: float
    jobs_j: float
    time_s: float


def run_jobs(
    live: LiveCluster,
    jobs: Sequence[Arrival],
    draw: Callable[[Top, int], None],
    *,
    first: Sequence[JobSpec] = (),
) -> Done:
    """Submit each job when its time comes, and wait until all jobs have ended.

    Args:
        live: A started cluster.
        jobs: The jobs with their arrival times, in order of arrival.
        draw: Function that is called a few times a second with the cluster's state and the number of jobs still to
            arrive.
        first: Warm-up jobs, which end before the first of ``jobs`` arrives. They are not in the result.

    Raises:
        InputError: A job failed, or the jobs took too long.
    """
    from powerflow.api.records import Caller, Role
    from powerflow.demo.jobs import Arrival

    stop = threading.Event()
    failures: list[BaseException] = []

    def turn() -> None:
        try:
            live.controller.run(stop)
        except BaseException as error:  # the main thread ends the demo in order and prints the error
            failures.append(error)

    loop = threading.Thread(target=turn, name="powerflow-loop")
    loop.start()
    try:
        caller = Caller(getpass.getuser(), Role.OPERATOR)

        def until_done(coming: list[Arrival], most_s: float, shown: Callable[[Top, int], None]) -> None:
            began_s = time.monotonic()
            while True:
                while coming and time.monotonic() - began_s >= coming[0].after_s:
                    live.service.submit(coming.pop(0).spec, caller)
                top = live.service.top()
                shown(top, len(coming))
                if failures:
                    raise failures[0]
                if not coming and not top.jobs:
                    return
                if time.monotonic() - began_s > most_s:
                    raise InputError(
                        f"the jobs took longer than {most_s:.0f} s", fix="check if the machine is busy", exit_code=1
                    )
                time.sleep(0.25)

        until_done([Arrival(0.0, spec) for spec in first], WARM_S, lambda top, coming: None)
        start = _start(live)
        until_done(list(jobs), MOST_S, draw)
    finally:
        stop.set()
        live.controller.ring()
        loop.join()
    return _done(live, start)


@contextmanager
def _table(screen: Console, quiet: bool) -> Iterator[Callable[[Top, int], None]]:
    """Yield a function that shows the cluster: updated in place on a terminal, otherwise one line every ten seconds."""
    from rich.live import Live

    from powerflow.cli.cluster.top import draw

    if quiet:
        yield lambda top, coming: None
    elif screen.is_terminal:
        with Live(console=screen, auto_refresh=False, transient=True) as picture:
            yield lambda top, coming: picture.update(draw(top, screen.width), refresh=True)
    else:
        said_s = [0.0]

        def line(top: Top, coming: int) -> None:
            if time.monotonic() - said_s[0] >= 10.0:
                said_s[0] = time.monotonic()
                screen.print(
                    f"{top.gpus_busy} of {top.gpus} GPUs busy, {power(top.power_w)} emulated,"
                    f" {energy(top.energy_j)}; {top.running} jobs run, {top.queued} wait, {coming} to come"
                )

        yield line


def _start(live: LiveCluster) -> _Start:
    earlier = live.store.jobs(limit=1000).items
    _check_completed(earlier, "warming up, ")
    metered_j, jobs_j, _ = live.controller.power.totals_j()
    return _Start(frozenset(job.id for job in earlier), metered_j, jobs_j, live.controller.clock())


def _check_completed(jobs: Sequence[StoredJob], what: str) -> None:
    for job in jobs:
        if job.state != "completed":
            lines = " | ".join(job.last_lines[-3:])
            raise InputError(f"{what}{job.spec.name} {job.state} ({job.exit}): {lines}", exit_code=1)


def _done(live: LiveCluster, start: _Start) -> Done:
    from powerflow.demo.rehearsal import Live, side_by_side

    found = [job for job in live.store.jobs(limit=1000).items if job.id not in start.earlier]
    jobs = sorted(found, key=lambda job: int(job.id))
    _check_completed(jobs, "job ")
    recorded = _recorded(live, jobs)
    first_s = min(job.submitted_s for job in jobs)
    span_s = max(job.ended_s or 0.0 for job in jobs) - first_s
    metered_j, jobs_j, _ = live.controller.power.totals_j()
    idle_w = sum(live.controller.power.idle_w())
    # before the first submission, and after the last job's end, the cluster idled
    around_s = (first_s - start.time_s) + (live.controller.clock() - first_s - span_s)
    metered_j, jobs_j = metered_j - start.metered_j - idle_w * max(0.0, around_s), jobs_j - start.jobs_j
    outcomes = side_by_side(recorded, Live(metered_j, jobs_j, span_s), idle_w)
    pauses_s = _pauses_s(live, jobs)
    return Done(jobs, outcomes, median(pauses_s) if pauses_s else math.nan, sum(job.rescales for job in jobs))


def _recorded(live: LiveCluster, jobs: list[StoredJob]) -> Recorded:
    from powerflow.demo.rehearsal import Recorded
    from powerflow.live.jobs.cost_learning import class_of

    events = live.store.events(limit=10_000).items
    classes = {class_of(job.spec, job.user).name for job in jobs}
    learning = live.controller.learning
    ready = {event.job_id: event.time_s for event in reversed(events) if event.kind == "running"}
    starts = [job.started_s - ready[job.id] for job in jobs if job.started_s and job.id in ready]
    return Recorded(
        jobs=jobs,
        cluster=live.spec,
        axes=live.axes,
        tables={(name, gpu): learning.table(name, gpu) for name in classes for gpu in live.axes},
        energy_price=live.controller.scheduler.energy_price,
        interval_s=INTERVAL_S,
        policy=live.controller.scheduler.policy_name,
        pause_s=fmean(pauses_s)
        if (pauses_s := _pauses_s(live, jobs))
        else live.controller.settings.pause_s["in-place"],
        start_s=fmean(starts) if starts else 0.0,
        explore_steps=EXPLORE_STEPS,
    )


def _pauses_s(live: LiveCluster, jobs: Sequence[StoredJob]) -> list[float]:
    """Return the length of each pause that a rescale or a move caused in these jobs, in seconds."""
    ours = {job.id for job in jobs}
    events = live.store.events(limit=10_000).items
    return [float(event.fields["pause_s"]) for event in events if "pause_s" in event.fields and event.job_id in ours]


def _show(done: Done, screen: Console) -> None:
    from rich.table import Table

    table = Table(title="Ten jobs, trained for real on emulated GPUs: joules are modelled", title_justify="left")
    for head in ("job", "GPUs asked", "steps", "time to completion", "energy", "per step", "rescales"):
        table.add_column(head, justify="left" if head == "job" else "right")
    for job in done.jobs:
        jct_s = (job.ended_s or job.submitted_s) - job.submitted_s
        per_step = energy(job.energy_j / job.steps) if job.steps else "–"
        asked, steps = str(job.spec.gpus), f"{job.steps:.0f}"
        table.add_row(job.spec.name, asked, steps, duration(jct_s), energy(job.energy_j), per_step, str(job.rescales))
    screen.print(table)
    live, same, fifo = done.outcomes
    result = Table(title="Against FIFO at maximum clock, on the same jobs", title_justify="left")
    for head in ("", "average JCT", "energy of the cluster", "of jobs"):
        result.add_column(head, justify="left" if not head else "right")
    for outcome in (live, fifo, same):
        result.add_row(outcome.name, duration(outcome.jct_s), energy(outcome.energy_j), energy(outcome.jobs_j))
    screen.print(result)
    screen.print(
        f"PowerFlow: {_change(same.jct_s, fifo.jct_s)} average JCT and {_change(same.energy_j, fifo.energy_j)} energy"
        " than FIFO at maximum clock (both simulated, from the recorded jobs)."
    )
    screen.print(_verdict(same.jct_s / live.jct_s - 1, same.energy_j / live.energy_j - 1))
    if done.rescales:
        screen.print(f"{done.rescales} rescales while training, median pause {done.pause_s * 1e3:.0f} ms.")


def _verdict(off_jct: float, off_j: float) -> str:
    """Return a sentence that says how much a simulation of the same jobs differs from the live run.

    It also says whether this is within the goal, `NEAR`.
    """
    near = max(abs(off_jct), abs(off_j)) <= NEAR
    said = f"A simulation of the same run differs by {off_jct:+.1%} in JCT and {off_j:+.1%} in energy"
    return f"{said}. The goal is at most {NEAR:.0%}: {'reached' if near else 'not reached'}."


def _change(ours: float, theirs: float) -> str:
    change = ours / theirs - 1.0
    return f"{abs(change):.0%} {'less' if change < 0 else 'more'}"
