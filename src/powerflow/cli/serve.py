"""``powerflow serve``: run the controller of a live cluster and its API."""

from __future__ import annotations

import getpass
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from powerflow.api.governance import Stage
from powerflow.cli.options import CostFiles
from powerflow.engine.kind import EngineKind

if TYPE_CHECKING:
    from powerflow.cli.ending import Ending
    from powerflow.live.build import LiveCluster
    from powerflow.live.governance.stages import Stages
    from powerflow.service.peers import Network
    from powerflow.service.tokens import Tokens

#: Holds the database's URL: an argument can be read by every login of the machine, and a URL may hold a password.
STORE_URL = "POWERFLOW_STORE_URL"
#: Default address and port of the API.
HOST, PORT = "127.0.0.1", 7733
#: Most seconds for jobs to save their state and end, with --on-exit drain.
DRAIN_S = 300.0
#: Seconds of decisions in plain Python, in an hour, before a compiler is loaded for them: it takes 120 MiB.
PLAIN_S = 10.0


class OnExit(StrEnum):
    """What the controller does with running jobs when it ends."""

    LEAVE = "leave"
    DRAIN = "drain"


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
    costs: CostFiles = None,
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
    from powerflow.cli.settings import load
    from powerflow.cost.costs_file import read_costs
    from powerflow.engine.local.process import hide_memory
    from powerflow.engine.protocol import EngineError
    from powerflow.kernel import be_patient
    from powerflow.live.build import ClusterSettings, build
    from powerflow.live.controller import ControllerSettings
    from powerflow.live.governance.replay_process import Replays
    from powerflow.service.logs import json_lines
    from powerflow.service.peers import trusted_proxies
    from powerflow.service.server import take_port
    from powerflow.simulate.day_replay import compare_days, replay_days
    from powerflow.store.database import LostClaim

    kind, listens = _engine(engine, emulate, agents, ray_address, ray_emulate)
    proxies = trusted_proxies(trusted_proxy or ())
    be_patient(PLAIN_S)
    hide_memory()  # if this process is not root, jobs run as the same user
    if store and any(store in word for word in sys.argv) and ":" in store.partition("://")[2].rpartition("@")[0]:
        what = "every user of this machine can read the store's password in the arguments of this process"
        print(f"powerflow: {what}: set {STORE_URL} instead", file=sys.stderr, flush=True)
    directory = state_dir or load().state_dir
    os.umask(0o022)  # users must be able to read what the controller writes for their ranks
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
                replays=Replays(replay_days, compare_days),
                stage=mode,
                costs=read_costs(costs or ()),
                max_grace_s=max_grace,
                restored=restored,
                controller=ControllerSettings(explore_steps=explore_steps),
            ),
            log=json_lines(sys.stderr),
        )
        undo.pop_all()
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
                proxies=proxies,
            )
        except BaseException as error:
            # otherwise the engine belongs to another controller, which may be at work
            if live.fabric.started and not isinstance(error, LostClaim):
                with suppress(EngineError):  # the agent stays if ranks run
                    live.fabric.shutdown()
            raise
        finally:
            live.close()


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


def run_controller(
    live: LiveCluster,
    state: Path,
    host: str,
    port: int,
    first: Stage,
    watch: Ending,
    *,
    taken: socket.socket,
    drain: bool = False,
    open_metrics: bool = False,
    proxies: Sequence[Network] = (),
) -> None:
    """Start the controller, and serve the API until SIGTERM or Ctrl-C.

    ``watch`` limits the time for the end, and ``taken`` is the socket of the API.

    Raises:
        LostClaim: Another controller has taken over the store.
    """
    from powerflow import __version__
    from powerflow.engine.protocol import EngineError
    from powerflow.service.app import build_app
    from powerflow.service.middleware import hosts_of
    from powerflow.service.refused import RefusedTokens
    from powerflow.service.server import ApiServer
    from powerflow.service.token_audit import TokenAudit

    controller = live.controller
    if live.start():
        live.log.info("agent renewed", what="an agent of another version was replaced; its ranks continue")
    tokens, refused = own_tokens(state), RefusedTokens()
    token_audit = TokenAudit(tokens, refused, live.store.note, controller.clock, controller.notices.show, live.log)
    app = build_app(
        live.service,
        tokens,
        version=__version__,
        log=live.log,
        hosts=hosts_of(host),
        open_metrics=open_metrics,
        proxies=proxies,
        refused=refused,
    )
    failures: list[BaseException] = []
    stop = threading.Event()
    with ApiServer(app, host, port, taken=taken) as server, waking() as (wait, wake):

        def turn() -> None:
            try:
                controller.run(stop)
            except BaseException as error:  # the main thread ends the process in order and prints the error
                failures.append(error)
            wake()

        loop = threading.Thread(target=turn, name="powerflow-loop")
        announced = announce(state, server.url, controller.owner)
        loop.start()
        token_audit.start()
        try:
            kind = "emulated " if controller.power.emulated else ""
            gpus = f"{live.spec.gpus} {kind}GPU{'s' if live.spec.gpus > 1 else ''}"
            print(f"powerflow serves {gpus} at {server.url}; state in {state}", flush=True)
            if said := stage_said(live.controller.governance.stages, first):
                print(f"powerflow: {said}", file=sys.stderr, flush=True)
            wait()
        finally:  # also if printing fails, or the loop would go on for ever
            watch.begin("the controller's loop")
            server.hang_up()
            token_audit.stop()
            stop.set()
            controller.ring()
            loop.join()
        watch.now("requests to the API")
    withdraw(state, announced)
    if failures:
        raise failures[0]
    if drain:
        watch.begin("jobs that leave", more_s=DRAIN_S)
        live.log.info("draining", what="jobs save their state and end, in at most 5 minutes")
        if not controller.drain(DRAIN_S):
            live.log.warning("drained in part", what="some jobs did not end in 5 minutes; they continue")
        watch.begin("the store and the GPUs")
    watch.now("the store and the GPUs")
    controller.finish()
    watch.now("the engine's agent")
    with suppress(EngineError):  # the agent stays if ranks run; otherwise the next start begins with its own version
        live.fabric.shutdown()


def stage_said(stages: Stages, first: Stage) -> str:
    """Return a sentence if a stage that was set earlier is used instead of ``first`` (``--mode``); otherwise ""."""
    now = stages.stored_for_all()
    if now is None or now.stage is first:
        return ""
    return f"the stage is {now.stage} (set by {now.by}), not {first}: powerflow mode {first} sets it"


@contextmanager
def waking() -> Iterator[tuple[Callable[[], object], Callable[[], object]]]:
    """Yield two functions. One waits for SIGTERM, SIGINT or a wake-up; the other causes a wake-up.

    This must be called in the main thread.
    """
    listening, speaking = socket.socketpair()
    speaking.setblocking(False)
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    fd = signal.set_wakeup_fd(speaking.fileno(), warn_on_full_buffer=False)
    try:
        yield lambda: select.select([listening], [], []), lambda: speaking.send(b"\0")
    finally:
        signal.set_wakeup_fd(fd)
        for number, handler in before.items():
            signal.signal(number, handler)
        listening.close()
        speaking.close()


def own_tokens(state: Path) -> Tokens:
    """Load the controller's tokens. At the first start, make an operator's token for the user who starts it."""
    from powerflow.api.records import Role
    from powerflow.service.tokens import Tokens, create_token

    path = state / "tokens.json"
    if not path.exists():
        token = create_token(path, getpass.getuser(), Role.OPERATOR)
        mine = state / "token"
        with os.fdopen(os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(token + "\n")
    return Tokens.load(path)


def announce(state: Path, url: str, owner: str) -> bytes:
    """Write the API's address to the file ``server.json``, where commands find it; return the file's content."""
    from powerflow.osutil.files import replace_json

    path = state / "server.json"
    replace_json(path, {"url": url, "token_file": str(state / "token"), "controller": owner})
    return path.read_bytes()


def withdraw(state: Path, announced: bytes) -> None:
    """Delete the file ``server.json``, unless another controller has written it since `announce`."""
    path = state / "server.json"
    with suppress(OSError):
        if path.read_bytes() == announced:
            path.unlink()
