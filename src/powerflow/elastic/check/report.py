"""Run all checks on a script, and say what they cannot see."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import NamedTuple

from powerflow.elastic.check import distributed, frameworks, loops, plain_values, state
from powerflow.elastic.check.finding import Check, Finding
from powerflow.elastic.check.project import Project
from powerflow.elastic.check.source import FILES, read

_CHECKS: tuple[Check, ...] = (
    frameworks.trainers,
    distributed.process_groups,
    distributed.samplers,
    distributed.environment,
    distributed.devices,
    distributed.collectives,
    distributed.kept_ranks,
    loops.loops,
    loops.resuming,
    loops.backwards,
    loops.updates,
    loops.counters,
    loops.lengths,
    loops.decisions,
    plain_values.plain_values,
    state.unregistered,
    state.random_numbers,
    state.saving,
)
#: Rules after which nothing else is worth to be said: the script cannot be rescaled in place at all.
_OTHER_MODE = {"trainer", "sharded"}
#: Rules that are about one matter.
_TOPICS = {
    **dict.fromkeys(("early-collective", "kept-rank", "environment", "scaled-by-ranks"), "rank"),
    **dict.fromkeys(("sampler", "batches"), "loader"),
}
#: Packages whose code has nothing to do with the ranks of a job.
_KNOWN = {"torch", "torchvision", "torchaudio", "numpy", "powerflow", "tqdm", "yaml", "PIL", "pandas", "matplotlib"}


class CheckReport(NamedTuple):
    """What all checks found in a script.

    Attributes:
        files: The files that were read.
        joins: True if one of them refers to `powerflow.elastic`.
        findings: What was found, by file and line.
        not_seen: What the checks cannot see, one sentence each.
    """

    files: list[str]
    joins: bool
    findings: list[Finding]
    not_seen: list[str]


def check(script: Path) -> CheckReport:
    """Check a script and the files beside it that it imports. Nothing is run or imported.

    Raises:
        InputError: The script, or a file that it imports, is not Python.
        OSError: A file cannot be read.
    """
    sources, elsewhere = read(script)
    project = Project(sources)
    joins = any(source.joins() for source in sources)
    found = [one for source in sources for act in _CHECKS for one in act(project, source)]
    other = [one for one in found if one.rule in _OTHER_MODE]
    if other:
        found = other
    elif not joins:
        what = "nothing here uses powerflow.elastic: each GPU would run the whole script by itself"
        lines = "change the lines below" if found else "use run.wrap, run.epochs, run.batches and run.backward"
        fix = f"{lines} (docs/elastic.md), or give rescale: restart or none"
        found.append(Finding(sources[0].name, 1, "never-joins", what, fix))
    elif missing := _missing(project):
        what = f"{missing} is never called, so no rank trains together with others"
        found.append(Finding(sources[0].name, 1, "incomplete", what, "see docs/elastic.md"))
    order = [source.name for source in sources]
    by_line: dict[tuple[str, int, str], Finding] = {}
    for one in found:
        by_line.setdefault((one.file, one.line, _topic(one)), one)
    findings = sorted(by_line.values(), key=lambda one: (order.index(one.file), one.line))
    return CheckReport(order, joins, findings, _not_seen(project, elsewhere))


def _missing(project: Project) -> str:
    """Return which call a script that uses `powerflow.elastic` lacks; "" for none."""
    if not project.begins_run:
        return "elastic.init"
    return next((f"run.{name}" for name in ("wrap", "epochs", "batches") if not project.run_calls(name)), "")


def _topic(one: Finding) -> str:
    """Return what findings of one line are about; of several about one matter the first is enough."""
    return _TOPICS.get(one.rule, one.rule)


def _not_seen(project: Project, elsewhere: list[str]) -> list[str]:
    said = ["values at run time: arguments, configuration, whether all ranks decide alike"]
    packages = [name for name in elsewhere if name not in sys.stdlib_module_names and name not in _KNOWN and name]
    if packages:
        said.append(f"code of other packages: {', '.join(packages)}")
    if len(project.sources) == FILES:
        said.append(f"files after the first {FILES}")
    if not project.steps:
        said.append("the loop that trains: no backward is called in a loop of these files")
    for at in project.run_calls("wrap"):
        if any(isinstance(part, ast.Starred) for part in at.node.args):
            said.append(f"what {at.source.name}:{at.node.lineno} gives to run.wrap")
    for source in project.sources:
        hidden = [call.lineno for call, name in source.calls if name in ("exec", "eval", "importlib.import_module")]
        said += [f"what {source.name}:{line} runs" for line in hidden]
    return said
