"""``powerflow simulate``: simulate a log of jobs under one policy."""

from __future__ import annotations

import math
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from powerflow.cli.options import (
    BelievedCosts,
    BelievedSizes,
    Cluster,
    CostFiles,
    Json,
    Load,
    MostGpus,
    ProjectShares,
    Quiet,
    Report,
    Seed,
    WorkloadOf,
    costs_of,
    of_load,
    project_shares,
)
from powerflow.cli.output import atomic_write, console, print_facts, print_json, progress
from powerflow.errors import InputError
from powerflow.units import energy, parse_amount, percent, prose

if TYPE_CHECKING:
    from collections.abc import Callable

    from powerflow.simulate.energy_target import TargetRun
    from powerflow.simulate.experiment import Experiment
    from powerflow.simulate.result import SimulationResult


def simulate(
    trace: Annotated[Path, typer.Argument(help="A log of jobs. powerflow trace info shows its content.")],
    cluster: Cluster,
    policy: Annotated[str, typer.Option(help="Policy, such as prices, srtf+clock:1065 or greedy:0.5.")] = "prices",
    energy: Annotated[
        str | None,
        typer.Option(
            help="Find λ so that at most this energy is used: 300kWh, or 80% of FIFO's energy at maximum clock."
        ),
    ] = None,
    price: Annotated[
        float | None, typer.Option("--lambda", help="Energy price λ, in seconds per joule. Default: 0.")
    ] = None,
    load: Load = None,
    belief: BelievedCosts = "oracle",
    sizes: BelievedSizes = "known",
    costs: CostFiles = None,
    seed: Seed = 0,
    most_gpus: MostGpus = None,
    pause: Annotated[float, typer.Option(help="Seconds that a job pauses when its GPUs change.")] = 30.0,
    mtbf: Annotated[
        float | None, typer.Option(help="Mean hours between two failures of a node. Default: no failures.")
    ] = None,
    share: ProjectShares = None,
    json: Json = False,
    report: Report = None,
    quiet: Quiet = False,
) -> None:
    """Simulate a log of jobs under one policy, on a cluster with modelled costs, and print the result."""
    from powerflow.report.html import render_simulation
    from powerflow.simulate.energy_target import run_at_energy
    from powerflow.simulate.experiment import Believed, Experiment
    from powerflow.simulate.world import World
    from powerflow.trace.read import read_trace

    amount = None if energy is None else parse_amount(energy, "--energy")
    _check_price(price, energy, policy)
    world = World(pause_s=pause, node_mtbf_h=math.inf if mtbf is None else mtbf)
    with ExitStack() as stack:
        page = None if report is None else stack.enter_context(atomic_write(report))
        log = read_trace(trace)
        believed = Believed(belief, sizes, world, project_shares(share, (log,)))
        experiment = Experiment(
            WorkloadOf((log,), cluster, of_load(load), most_gpus, costs_of(costs, (log,), cluster)), believed
        )
        facts = {**experiment.workload(seed).facts, **believed.facts()}
        run = _runner(experiment, seed, quiet)
        met = None
        if amount is None:
            result = run(policy, price or 0.0)
        else:
            met = run_at_energy(run, policy, amount, experiment.workload(seed))
            result = met.result
            facts["Price of energy"] = _price_fact(met, energy or "")
        if page is not None:
            page.write_text(render_simulation(result, facts), encoding="utf-8")
    if json or not quiet:
        _show(result, met, facts, report, json)


def _check_price(price: float | None, energy: str | None, policy: str) -> None:
    """Check that options do not contradict one another, before any file is read."""
    from powerflow.policy import registry
    from powerflow.simulate.frontier import family

    if energy is not None and price is not None:
        raise InputError("--energy and --lambda are both given", fix="give only one: --energy finds λ itself")
    if price is not None and not (price >= 0 and math.isfinite(price)):
        raise InputError(f"λ is {price}", where="--lambda", fix="give seconds per joule ≥ 0")
    registry.load(policy)
    if (energy is not None or price) and family(policy) in registry.BUILT_IN and family(policy) != "prices":
        own = "its threshold: greedy:0.5" if family(policy) == "greedy" else f"a clock rule: {family(policy)}+zeus:0.5"
        raise InputError(f"policy {policy} does not use an energy price", where="--policy", fix=f"give {own}")


def _runner(experiment: Experiment, seed: int, quiet: bool) -> Callable[[str, float], SimulationResult]:
    """Return a function that simulates a policy at a price and shows a progress bar."""
    from powerflow.simulate.frontier import Setting

    def run(policy: str, price: float) -> SimulationResult:
        simulation = experiment.simulation(seed, Setting(policy, price, ""))
        jobs = len(simulation.jobs)
        what = f"{policy} at λ={prose(price)}" if price else policy
        with nullcontext(None) if quiet else progress(what, total=jobs) as step:
            ended, over = 0, False
            while not over:
                over = simulation.run(events=500)
                if step is not None:
                    step(simulation.ended - ended)
                ended = simulation.ended
        return simulation.result()

    return run


def _price_fact(met: TargetRun, asked: str) -> str:
    found = met.found
    return (
        f"λ = {prose(found.energy_price, 4)} s/J, found in {len(found.tried)} runs for at most {asked}; "
        f"{found.off:.1%} of this energy is unused"
    )


def _show(
    result: SimulationResult, met: TargetRun | None, facts: dict[str, str], report: Path | None, json: bool
) -> None:
    """Print the result of a simulation."""
    from powerflow.report.table import metrics_table
    from powerflow.simulate.metrics import metrics

    horizon_s = result.end_s if met is None else met.horizon_s
    numbers = metrics(result, horizon_s)
    if json:
        document = {
            "policy": result.policy,
            "seed": result.seed,
            "lambda_s_per_j": result.energy_price,
            "jobs": len(result.jobs.ids),
            "metrics": numbers,
            "horizon_s": horizon_s,
            "end_s": result.end_s,
            "jobs_j": float(result.jobs.energy_j.sum()),
            "idle_j": numbers.energy_j - float(result.jobs.energy_j.sum()),
            "reference_j": None if met is None else met.reference_j,
            "decisions": result.decisions,
            "facts": facts,
            "report": report,
        }
        print_json("simulate", document)
        return
    out = console()
    out.print(metrics_table(numbers, f"{result.policy}, {len(result.jobs.ids):,} jobs"))
    if met is not None and met.reference_j is not None:
        of = percent(numbers.energy_j / met.reference_j)
        out.print(f"{of} of the {energy(met.reference_j)} that FIFO uses at maximum clock in the same time")
    print_facts(facts, report)
