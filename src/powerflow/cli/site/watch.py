"""``powerflow watch``: watch who draws what on GPUs that another scheduler gives out."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from powerflow.cli.options import Json
from powerflow.cli.output import console, json_line, print_json
from powerflow.cli.site.sources import (
    BasicFile,
    CaFile,
    NodeLabel,
    Owners,
    PrometheusAccess,
    Sources,
    TokenFile,
    default_file,
    open_sources,
)
from powerflow.errors import InputError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from powerflow.cli.cluster.client import ControllerClient
    from powerflow.watch.ledger import WatchLedger
    from powerflow.watch.present import Present
    from powerflow.watch.watcher import Watcher

#: Seconds between two looks: a busy slurmctld or Prometheus is not asked more often.
EVERY_S = 30.0
#: Kept readings reach this far back where a source has a history, when the watch goes on, seconds.
_BACK_S = 3600.0


def watch(
    prometheus: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Prometheus that scrapes dcgm-exporter. Default: the GPUs of this machine."),
    ] = None,
    controller: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Controller of PowerFlow, to read the GPUs of its machines instead."),
    ] = None,
    owners: Annotated[
        Owners, typer.Option(help="Who says which job holds which GPU. auto: Slurm where there is one.")
    ] = Owners.AUTO,
    file: Annotated[Path | None, typer.Option(help="File to keep the energy of jobs in.")] = None,
    token_file: TokenFile = None,
    basic_file: BasicFile = None,
    ca_file: CaFile = None,
    node_label: NodeLabel = "",
    controller_token_file: Annotated[
        str | None, typer.Option("--token-file", help="File that holds your token for the controller.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Look once, and keep nothing.")] = False,
    json: Json = False,
) -> None:
    """Watch who draws what on GPUs that Slurm, Kubernetes or nobody gives out. Change nothing.

    Look every 30 s, show each job with its power and its energy so far, and keep both until Ctrl-C and after.
    `powerflow watched` sums up what was kept. No special rights are needed.
    """
    access = PrometheusAccess(prometheus, token_file, basic_file, ca_file, node_label)
    sources = open_sources(access, owners, _client(controller, controller_token_file))
    if once:
        _look_once(sources, json)
        return
    from powerflow.watch.ledger import WatchLedger

    path = file or default_file()
    with _alone(path):
        ledger = WatchLedger(path)
        try:
            _run(sources, ledger, json)
        finally:
            ledger.close()


def _client(url: str | None, token_file: str | None) -> ControllerClient | None:
    """Return a client of the controller that is named; its token may also come as for other commands."""
    if url is None:
        return None
    from powerflow.cli.cluster.client import ControllerClient
    from powerflow.cli.settings import load

    found = load(url=url, token_file=token_file)
    return ControllerClient(found.url or url, found.token)


def _look_once(sources: Sources, json: bool) -> None:
    """Show the present state; with one reading there is a power, and no energy."""
    from powerflow.watch.present import present
    from powerflow.watch.watcher import Watcher

    watcher = Watcher()
    readings, owners, notes = sources.look(time.time() - 120.0)
    if readings is None:
        raise InputError(notes[0], exit_code=5)
    watcher.take(readings, owners)
    found = present(watcher, time.time())
    if json:
        print_json("watch", {**_document(found, notes), "sources": sources.described()})
    else:
        console().print(_draw(found, notes, console().width))


def _run(sources: Sources, ledger: WatchLedger, json: bool) -> None:
    """Look every 30 s until Ctrl-C or SIGTERM; then settle what can be settled."""
    from powerflow.watch.keeper import Keeper
    from powerflow.watch.ledger import uses_of
    from powerflow.watch.watcher import restored

    state = ledger.state()
    open_jobs = {job["key"] for job in state.get("jobs", ())}
    recent = ledger.jobs(float(state.get("known_until_s", 0.0)) - 3600.0, time.time())
    watcher = restored(state, uses_of([row for row in recent if row.job.key in open_jobs]))
    if not json:
        console(stderr=True).print(f"{sources.described()}; kept in {ledger.path}; Ctrl-C ends", soft_wrap=True)
    since_s = max((track.settled_s for track in watcher.tracks.values()), default=0.0)
    keeper = Keeper(watcher, ledger)
    first = True
    with _until_stopped() as stopped, _shown(json) as show:
        while True:
            began_s = time.time()
            readings, owners, notes = sources.look(max(since_s, began_s - _BACK_S))
            if readings is None and first:
                raise InputError(notes[0], exit_code=5)  # an address that is wrong stays wrong
            first = False
            if readings is not None:
                watcher.take(readings, owners)
                since_s = max((float(s.time_s[-1]) for s in readings.series.values() if len(s)), default=since_s)
            notes += keeper.settle(began_s, all_of_it=False)
            show(_present(watcher), notes)
            if stopped(max(began_s + EVERY_S - time.time(), 0.0)):
                break
    for note in keeper.settle(time.time(), all_of_it=True):
        raise InputError(note, exit_code=1)


def _present(watcher: Watcher) -> Present:
    from powerflow.watch.present import present

    return present(watcher, time.time())


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the file's lock during the ``with`` block.

    Raises:
        InputError: Another watch writes this file.
    """
    from powerflow.osutil.files import try_lock

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = try_lock(path.with_name(f"{path.name}.lock"))
    if lock is None:
        raise InputError(
            "another watch writes it", where=os.fspath(path), fix="end that one, or give --file", exit_code=4
        )
    try:
        yield
    finally:
        os.close(lock)


@contextmanager
def _until_stopped() -> Iterator[Callable[[float], bool]]:
    """Yield a function that waits some seconds, and returns True as soon as Ctrl-C or SIGTERM has come."""
    read, write = os.pipe()

    def stop(number: int, frame: object) -> None:
        os.write(write, b"x")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}

    def stopped(wait_s: float) -> bool:
        import select

        return bool(select.select([read], [], [], wait_s)[0])

    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(read)
        os.close(write)


@contextmanager
def _shown(json: bool) -> Iterator[Callable[[Present, Sequence[str]], None]]:
    """Yield a function that shows the present state: as a picture on a terminal, as lines elsewhere."""
    out = console()
    if json or not out.is_terminal:

        def print_line(found: Present, notes: Sequence[str]) -> None:
            print(json_line("watch", _document(found, notes)) if json else _line(found, notes))
            sys.stdout.flush()

        yield print_line
        return
    from rich.live import Live

    with Live(console=out, screen=True, auto_refresh=False, vertical_overflow="crop") as live:

        def draw(found: Present, notes: Sequence[str]) -> None:
            live.update(_draw(found, notes, out.width), refresh=True)

        yield draw


def _document(found: Present, notes: Sequence[str]) -> dict[str, object]:
    return {
        "time_s": found.time_s,
        "settled_s": found.settled_s,
        "gpus": found.gpus,
        "free_gpus": found.free,
        "power_w": found.power_w,
        "free_power_w": found.free_w,
        "hidden_gpus": found.hidden,
        "hidden_power_w": found.hidden_w,
        "unclaimed": [str(gpu) for gpu in found.unclaimed],
        "emulated": found.emulated,
        "silent": [str(gpu) for gpu in found.silent],
        "jobs": [
            {
                "id": job.id,
                "name": job.name,
                "user": job.user,
                "account": job.account,
                "partition": job.partition,
                "state": job.state,
                "gpus": [str(gpu) for gpu in job.gpus],
                "silent_gpus": job.silent,
                "idle_gpus": job.idle,
                "power_w": job.power_w,
                "utilisation": job.utilisation,
                "clock_mhz": job.clock_mhz,
                "start_s": job.start_s,
                "energy_j": job.energy_j,
                "energy_low_j": job.low_j,
                "energy_high_j": job.high_j,
                "watched_from_s": job.from_s,
            }
            for job in found.jobs
        ],
        "notes": list(notes),
    }


def _line(found: Present, notes: Sequence[str]) -> str:
    """Return the present state in one line, for a log."""
    from powerflow.cli.sanitize import line
    from powerflow.cli.when import stamp
    from powerflow.units import power

    jobs, rest = _held(found)
    jobs = f"{power(found.power_w)}: {jobs}"
    silent = f"; {len(found.silent)} GPUs are silent" if found.silent else ""
    said = "".join(f"; {line(note)}" for note in (*_unclaimed(found), *notes))
    return f"{stamp(found.time_s)} {jobs}{rest}{silent}{said}"


def _held(found: Present) -> tuple[str, str]:
    """Say how many GPUs are held, and what the others draw."""
    from powerflow.units import power

    jobs = f"{len(found.jobs)} job{'s' * (len(found.jobs) != 1)}"
    if found.free is None:
        seen = f"{jobs} can be seen; who holds the other GPUs" if found.jobs else "who holds them"
        return f"{found.gpus} GPUs in all; {seen} is not known", ""
    held = f"{found.gpus} GPUs in all; {found.gpus - found.free - found.hidden} held by {jobs}"
    rest = (
        f"; {power(found.hidden_w)} of it by {found.hidden} that jobs hidden from you may hold" if found.hidden else ""
    )
    return held, rest + (f"; {power(found.free_w)} of it by {found.free} that nobody holds" if found.free else "")


def _unclaimed(found: Present) -> list[str]:
    """Say which GPUs compute though nobody is known to hold them; nothing if there is none."""
    if not found.unclaimed:
        return []
    names = ", ".join(map(str, found.unclaimed[:5])) + (" …" if len(found.unclaimed) > 5 else "")
    number = len(found.unclaimed)
    verb, it = ("s compute", "them") if number > 1 else (" computes", "it")
    return [f"{number} GPU{verb} though no job is known to hold {it}: {names}"]


def _draw(found: Present, notes: Sequence[str], width: int) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from powerflow.cli.cluster.job_table import noted
    from powerflow.cli.columns import fitted_table
    from powerflow.cli.sanitize import line
    from powerflow.cli.site.tables import present_columns
    from powerflow.cli.when import stamp
    from powerflow.units import power

    parts: list[RenderableType] = [Text(f"{stamp(found.time_s)}   {power(found.power_w)}: {''.join(_held(found))}")]
    if found.jobs:
        parts.append(fitted_table(found.jobs, present_columns(found), width))
    if found.settled_s is not None:
        parts.append(Text(f"energy up to {stamp(found.settled_s)}", style="dim"))
    if found.silent:
        names = ", ".join(line(str(gpu)) for gpu in found.silent[:5]) + (" …" if len(found.silent) > 5 else "")
        parts.append(Text(f"! {len(found.silent)} GPUs are silent: {names}", style="yellow"))
    parts += [Text(f"! {line(note)}", style="yellow") for note in (*_unclaimed(found), *notes)]
    return noted(Group(*parts), found.emulated)
