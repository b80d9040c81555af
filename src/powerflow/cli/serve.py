"""``powerflow serve``: run the controller of a live cluster and its API."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from powerflow.api.stages import Stage
from powerflow.cli.options import CostFiles
from powerflow.engine.kind import EngineKind

if TYPE_CHECKING:
    from powerflow.beside.poller import Poller
    from powerflow.live.build import LiveCluster

#: Holds the database's URL: an argument can be read by every login of the machine, and a URL may hold a password.
STORE_URL = "POWERFLOW_STORE_URL"
#: Default address and port of the API.
HOST, PORT = "127.0.0.1", 7733
#: Seconds of decisions in plain Python, in an hour, before a compiler is loaded for them: it takes 120 MiB.
PLAIN_S = 10.0


class OnExit(StrEnum):
    """What the controller does with running jobs when it ends."""

    LEAVE = "leave"
    DRAIN = "drain"


class Beside(StrEnum):
    """Another scheduler, beside which PowerFlow sets clocks."""

    SLURM = "slurm"


def serve(
    state_dir: Annotated[
        Path | None,
        typer.Option(help="State directory of the controller. Default: the directory in PowerFlow's settings files."),
    ] = None,
    emulate: Annotated[
        str | None, typer.Option(help="Emulated GPUs, such as 2x4:A100. Default: the real GPUs of this machine.")
    ] = None,
    engine: Annotated[
        EngineKind,
        typer.Option(
            help="Where jobs run. local: on this machine; agents: on machines whose agents dial in (powerflow agent); "
            "ray: on the nodes of a Ray cluster."
        ),
    ] = EngineKind.LOCAL,
    agents: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="Address on which agents of other machines dial in, with --engine agents."
        ),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Address of the Ray cluster, with --engine ray. Default: start one on this machine.",
        ),
    ] = None,
    ray_emulate: Annotated[
        str | None, typer.Option(help="Emulated GPUs on each node of Ray, such as 1x8:A100, with --engine ray.")
    ] = None,
    shared_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder that all machines share and every user may write to (mode 1777), for the checkpoints of jobs "
            "that name no folder. Default: such jobs are refused on a cluster of several machines."
        ),
    ] = None,
    policy: Annotated[str, typer.Option(help="Scheduling policy, such as prices or greedy:0.5.")] = "prices",
    energy_price: Annotated[
        float, typer.Option("--lambda", help="Energy price λ_E, in seconds of mean completion time per joule.", min=0.0)
    ] = 0.0,
    interval: Annotated[float, typer.Option(help="Shortest time between two decisions, in seconds.", min=0.0)] = 60.0,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = HOST,
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = PORT,
    store: Annotated[
        str, typer.Option(envvar=STORE_URL, help="Database URL; by default SQLite in the state directory.")
    ] = "",
    on_exit: Annotated[
        OnExit,
        typer.Option(help="What happens to jobs on SIGTERM or Ctrl-C. leave: they run on; drain: they save and stop."),
    ] = OnExit.LEAVE,
    mode: Annotated[Stage, typer.Option(help="Rollout stage, until powerflow mode sets another one.")] = Stage.ENFORCE,
    explore_steps: Annotated[
        int,
        typer.Option(
            help="When a job first runs on a number of GPUs: steps to measure at each clock; 0: none.",
            min=0,
        ),
    ] = 20,
    max_grace: Annotated[
        float,
        typer.Option(
            help="Longest time that a job may request for saving its state (checkpoint.grace), in seconds.", min=0.0
        ),
    ] = 600.0,
    restored: Annotated[
        bool,
        typer.Option(
            help="Accept a restored or moved state directory or store. None of its jobs may run on another machine."
        ),
    ] = False,
    beside: Annotated[
        Beside | None,
        typer.Option(
            help="Scheduler that starts and ends the jobs of this cluster. PowerFlow then takes no jobs, and only sets "
            "the clocks of GPUs."
        ),
    ] = None,
    max_slowdown: Annotated[
        str | None,
        typer.Option(help="Most by which jobs of the other scheduler may become slower, with --beside. Default: 5%."),
    ] = None,
    protect: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Jobs of the other scheduler that must run as fast as they can, by partition, account or user; may be "
            "repeated.",
        ),
    ] = None,
    costs: CostFiles = None,
    access_log: Annotated[bool, typer.Option("--access-log", help="Log each request to the API.")] = False,
    open_metrics: Annotated[bool, typer.Option(help="Serve /metrics without a token.")] = False,
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS|CIDR",
            help="Proxy whose X-Forwarded-For header is trusted; may be repeated. Default: no proxy.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Seed of the emulated GPUs' true costs, which the scheduler does not see.", min=0)
    ] = 0,
    time_scale: Annotated[
        float,
        typer.Option(
            help="Factor on the duration of emulated steps; with 0.1 they take a tenth of the time.", min=1e-6
        ),
    ] = 1.0,
) -> None:
    """Run the controller of a live cluster, until SIGTERM or Ctrl-C.

    Jobs run in separate processes. They continue when the controller ends or is killed, and the next controller takes
    them over. Without --host, the API accepts connections only from this machine.
    """
    from powerflow.cli.ending import ending
    from powerflow.cli.running import run_controller
    from powerflow.cli.settings import load
    from powerflow.cli.starting import ends_ranks, phase
    from powerflow.cost.costs_file import read_costs
    from powerflow.engine.local.process import hide_memory
    from powerflow.engine.protocol import EngineError
    from powerflow.kernel import be_patient
    from powerflow.live.build import ClusterSettings, build
    from powerflow.live.controller_settings import ControllerSettings
    from powerflow.live.governance.replay_process import Replays
    from powerflow.service.logs import json_lines
    from powerflow.service.peers import trusted_proxies
    from powerflow.service.server import take_port
    from powerflow.simulate.day_replay import compare_days, replay_days
    from powerflow.store.database import LostClaim

    poller = _poller(beside, max_slowdown, protect or ())
    kind, listens = _engine(engine, emulate, agents, ray_address, ray_emulate)
    proxies = trusted_proxies(trusted_proxy or ())
    hide_memory()  # if this process is not root, jobs run as the same user
    if store and any(store in word for word in sys.argv) and ":" in store.partition("://")[2].rpartition("@")[0]:
        what = "every user of this machine can read the store's password in the arguments of this process"
        print(f"powerflow: {what}: set {STORE_URL} instead", file=sys.stderr, flush=True)
    directory = state_dir or load().state_dir
    os.umask(0o022)  # users must be able to read what the controller writes for their ranks
    be_patient(PLAIN_S)
    with ExitStack() as undo:
        taken = undo.enter_context(take_port(host, port))  # before anything is started
        live = build(
            ClusterSettings(
                state=directory.absolute(),
                emulate=emulate,
                engine=kind,
                agents=listens,
                ray_address=ray_address,
                shared=shared_dir and shared_dir.absolute(),
                ray_emulate=ray_emulate,
                store=store,
                policy=policy,
                energy_price=energy_price,
                interval_s=interval,
                seed=seed,
                time_scale=time_scale,
                beside="" if beside is None else beside.capitalize(),
                replays=Replays(replay_days, compare_days),
                stage=mode,
                costs=read_costs(costs or ()),
                max_grace_s=max_grace,
                restored=restored,
                controller=ControllerSettings(explore_steps=explore_steps),
            ),
            log=json_lines(sys.stderr),
            phase=phase,
        )
        undo.pop_all()
    if kind is EngineKind.LOCAL and (warning := ends_ranks()):
        print(f"powerflow: {warning}", file=sys.stderr, flush=True)
    with ending() as watch:
        try:
            run_controller(
                live,
                directory.absolute(),
                host,
                port,
                mode,
                watch,
                taken=taken,
                drain=on_exit is OnExit.DRAIN,
                open_metrics=open_metrics,
                access_log=access_log,
                proxies=proxies,
                beside=poller and poller(live),
            )
        except BaseException as error:
            # otherwise the engine belongs to another controller, which may be at work
            if live.fabric.started and not isinstance(error, LostClaim):
                with suppress(EngineError):  # the agent stays if ranks run
                    live.fabric.shutdown()
            raise
        finally:
            live.close()


def _poller(
    beside: Beside | None, max_slowdown: str | None, protect: Sequence[str]
) -> Callable[[LiveCluster], Poller] | None:
    """Return a function that makes what asks the other scheduler for its jobs; None if there is none.

    Raises:
        InputError: An option is wrong, or makes no sense without --beside.
    """
    from powerflow.api.job_spec import Energy
    from powerflow.beside.poller import Poller
    from powerflow.beside.slurm_jobs import SlurmRules, external_look, read_protected
    from powerflow.errors import InputError
    from powerflow.live.external_door import ExternalDoor
    from powerflow.watch.sources.slurm import Slurm

    try:
        given = 0.0 if max_slowdown == "0" else max_slowdown or "5%"
        most = Energy.model_validate({"max_slowdown": given}).max_slowdown
        assert most is not None
    except ValueError:
        raise InputError(f"{max_slowdown!r} is no share", where="--max-slowdown", fix="write 5% or 0.05") from None
    if beside is None:
        for option, value in (("--protect", protect), ("--max-slowdown", max_slowdown)):
            if value:
                raise InputError("is for jobs of another scheduler", where=option, fix="give --beside slurm, too")
        return None
    rules, slurm = SlurmRules([read_protected(text) for text in protect]), Slurm()

    def make(live: LiveCluster) -> Poller:
        controller = live.controller
        door = ExternalDoor(live.store, controller.tell, controller.notices, "Slurm", most)
        return Poller(lambda now_s: external_look(slurm.look(now_s), rules), door, live.log)

    return make


def _engine(
    kind: EngineKind, emulate: str | None, agents: str | None, ray_address: str | None, ray_emulate: str | None
) -> tuple[EngineKind, tuple[str, int]]:
    """Return the kind of engine, and where agents dial in.

    Raises:
        InputError: Options contradict each other.
    """
    from powerflow.cli.agent import host_and_port
    from powerflow.errors import InputError

    if kind is EngineKind.LOCAL and agents is not None:
        kind = EngineKind.AGENTS
    for name, given, right in (
        ("--emulate", emulate, EngineKind.LOCAL),
        ("--agents", agents, EngineKind.AGENTS),
        ("--ray-address", ray_address, EngineKind.RAY),
        ("--ray-emulate", ray_emulate, EngineKind.RAY),
    ):
        if given is not None and kind is not right:
            raise InputError(f"cannot be used with --engine {kind}", where=name, fix=f"it is for --engine {right}")
    if kind is EngineKind.AGENTS and agents is None:
        raise InputError("says where agents dial in, and is missing", where="--agents", fix="give HOST:PORT")
    return kind, host_and_port(agents, "--agents") if agents else ("127.0.0.1", 0)
