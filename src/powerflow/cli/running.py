"""Run a controller that is built: serve its API until a signal, then end it in order."""

from __future__ import annotations

import getpass
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from powerflow.api.stages import Stage

if TYPE_CHECKING:
    from powerflow.beside.poller import Poller
    from powerflow.cli.ending import Ending
    from powerflow.live.build import LiveCluster
    from powerflow.live.controller import Controller
    from powerflow.live.governance.stages import Stages
    from powerflow.service.peers import Network
    from powerflow.service.tokens import Tokens

#: Most seconds for jobs to save their state and end, with --on-exit drain.
DRAIN_S = 300.0
#: Most seconds to bring jobs that are between two placements to the second one, before the controller ends.
SETTLE_S = 60.0


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
    access_log: bool = False,
    proxies: Sequence[Network] = (),
    beside: Poller | None = None,
) -> None:
    """Start the controller, and serve the API until SIGTERM or Ctrl-C.

    ``watch`` limits the time for the end, ``taken`` is the socket of the API, and ``beside`` asks another scheduler for
    its jobs.

    Raises:
        LostClaim: Another controller has taken over the store.
    """
    from powerflow import __version__
    from powerflow.cli.starting import phase
    from powerflow.engine.protocol import EngineError
    from powerflow.service.app import build_app
    from powerflow.service.middleware import hosts_of
    from powerflow.service.refused import RefusedTokens
    from powerflow.service.server import ApiServer
    from powerflow.service.token_audit import TokenAudit

    controller = live.controller
    with phase("takes the store, and the jobs that run"):
        renewed = live.start()
    if renewed:
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
        access_log=access_log,
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
        if beside is not None:
            beside.start()
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
            if beside is not None:
                beside.stop()
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
    else:
        settle(controller, watch)
    watch.now("the store and the GPUs")
    controller.finish()
    watch.now("the engine's agent")
    with suppress(EngineError):  # the agent stays if ranks run; otherwise the next start begins with its own version
        live.fabric.shutdown()


def settle(controller: Controller, watch: Ending) -> None:
    """Bring jobs that are between two placements to the second one; a further signal ends this at once."""
    from powerflow.live.consequences import named

    hurry = threading.Event()
    coming = controller.settle(0.0, hurry)
    if not coming:
        return

    def at_once(*_: object) -> None:
        hurry.set()
        watch.begin("jobs between two placements")

    watch.begin("jobs between two placements", more_s=SETTLE_S)
    before = {number: signal.signal(number, at_once) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        print(f"powerflow: brings {named(coming)} to new GPUs first; Ctrl-C ends at once", file=sys.stderr, flush=True)
        if left := controller.settle(SETTLE_S, hurry):
            stay = f"{named(left)} {'stays' if len(left) == 1 else 'stay'} between two placements"
            print(f"powerflow: {stay}: the next controller goes on with this", file=sys.stderr, flush=True)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    watch.begin("the store and the GPUs")


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
