"""What must hold of all that the ranks of a machines test have noted, whatever was done to machines and processes.

**Which work counts.** A step of a training epoch may be begun in several generations. The newest generation that began
it did the work that counts, and its passes must be exactly the samples of the step. A step that took effect in one
generation and was trained again in a later one was *redone*. That is right only if the later generation began from a
state before this step: if one of its ranks had trained in an earlier generation, this is at most one step back (the
others had not got the step's gradients); otherwise it began from the checkpoint.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from powerflow.elastic.training.sampling import SampleOrder
from tests.elastic import trainee

ORDER = SampleOrder(trainee.SAMPLES, trainee.GLOBAL_BATCH, True, 3)

Line = Mapping[str, Any]


@dataclass
class Harm:
    """What was done to ranks: names of ranks that were killed, and when hosts were cut (host name, from, to)."""

    killed: set[str] = field(default_factory=set)
    cuts: list[tuple[str, float, float]] = field(default_factory=list)
    boots: dict[str, str] = field(default_factory=dict)  # present boot of each host


@dataclass
class Found:
    """What the ranks have noted, in numbers."""

    generations: int = 0
    across: int = 0  # generations with ranks on several hosts
    steps: int = 0
    redone: int = 0
    ranks: int = 0


def read(ledger: Path) -> list[Line]:
    """Return all lines of a ledger that nobody writes to any more. None may be torn."""
    return _parsed(ledger.read_text())


class Ledger:
    """The lines of a ledger while ranks write to it. Each line is read once.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._read, self._lines = path, 0, list[Line]()

    def lines(self) -> list[Line]:
        """Return all lines that are complete."""
        with self._path.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        self._lines += _parsed(whole.decode())
        return self._lines


def _parsed(text: str) -> list[Line]:
    found = []
    for line in text.splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            raise AssertionError(f"a line of the ledger is torn: {line!r}") from None
    return found


def by_one_clock(lines: list[Line], skews_s: Mapping[str, int]) -> list[Line]:
    """Return lines with the times of one clock, given how many seconds the clocks of some hosts are ahead of it."""
    hosts = {line["rank"]: line["host"] for line in lines if line["kind"] == "start"}
    return [{**line, "at_s": line["at_s"] - skews_s.get(hosts[line["rank"]], 0)} for line in lines]


def job_of(line: Line) -> str:
    """Return the job of a line."""
    return str(line["rank"]).rsplit(".", 2)[0]


def by_job(lines: Iterable[Line]) -> dict[str, list[Line]]:
    """Return the lines of each job."""
    found: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        found[job_of(line)].append(line)
    return dict(found)


def check_trained(lines: Sequence[Line], epochs: int, finals: Sequence[Path]) -> Found:
    """Check one elastic job that has completed, from its lines and the parameters that its ranks ended with."""
    states = [line for line in lines if line["kind"] == "state"]
    begins = {line["generation"]: line["step"] for line in states}
    _check_equal(lines)
    _check_one_line_of_states(lines, begins)
    _check_taken_back(lines, begins)
    _check_one_at_a_time(lines)
    found = _check_samples(lines, epochs)
    hosts = {line["rank"]: line["host"] for line in lines if line["kind"] == "start"}
    of_generation: dict[int, set[str]] = defaultdict(set)
    for line in states:
        of_generation[line["generation"]].add(hosts[line["rank"]])
    found.generations, found.ranks = len(of_generation), len(hosts)
    found.across = sum(len(names) > 1 for names in of_generation.values())
    assert finals, "no rank has trained to the end"
    for path in finals:
        final = torch.load(path)
        for key, value in trainee.reference(epochs).items():
            torch.testing.assert_close(final[key], value, rtol=1e-7, atol=1e-9)
    return found


def _check_samples(lines: Sequence[Line], epochs: int) -> Found:
    """Every sample of every training epoch counts exactly once."""
    attempts: dict[tuple[int, int], dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        if line["kind"] == "pass":
            attempts[line["epoch"], line["within"]][line["generation"]] += line["index"]
    assert len(attempts) == epochs * ORDER.steps, f"{len(attempts)} steps, not {epochs * ORDER.steps}"
    for (epoch, within), generations in attempts.items():
        begin = within * trainee.GLOBAL_BATCH
        expected = sorted(ORDER.epoch(epoch)[begin : begin + ORDER.size(within)].tolist())
        last = max(generations)
        assert sorted(generations[last]) == expected, f"step {within} of epoch {epoch}: {dict(generations)}"
    effective: dict[int, set[int]] = defaultdict(set)
    for line in lines:
        if line["kind"] == "step":
            effective[line["step"]].add(line["generation"])
    assert sorted(effective) == list(range(epochs * ORDER.steps)), "a step has never taken effect"
    return Found(steps=len(effective), redone=sum(len(each) - 1 for each in effective.values()))


def _check_equal(lines: Sequence[Line]) -> None:
    """In each generation all ranks have the same parameters and optimiser state, bit by bit, after each step."""
    hashes: dict[tuple[str, int, int], dict[str, str]] = defaultdict(dict)
    for line in lines:
        if line["kind"] in ("state", "step"):
            hashes[line["kind"], line["generation"], line["step"]][line["rank"]] = line["hash"]
    for where, of_ranks in hashes.items():
        assert len(set(of_ranks.values())) == 1, f"ranks differ at {where}: {of_ranks}"


def _check_one_line_of_states(lines: Sequence[Line], begins: Mapping[int, int]) -> None:
    """Each generation begins with exactly the state that the newest generation before it had after that step."""
    after: dict[int, dict[int, str]] = defaultdict(dict)
    for line in lines:
        if line["kind"] == "step":
            after[line["step"]][line["generation"]] = line["hash"]
    for line in lines:
        if line["kind"] != "state" or line["step"] == 0:
            continue
        earlier = [g for g in after[line["step"] - 1] if g < line["generation"]]
        assert earlier, f"nobody has trained what generation {line['generation']} begins with: {begins}"
        assert after[line["step"] - 1][max(earlier)] == line["hash"], (
            f"{line} does not follow generation {max(earlier)}"
        )


def _check_taken_back(lines: Sequence[Line], begins: Mapping[int, int]) -> None:
    """A generation with a rank that has trained before goes back by at most one step."""
    of_rank: dict[tuple[str, int], list[int]] = defaultdict(list)
    trained: dict[int, set[str]] = defaultdict(set)
    top: dict[int, int] = defaultdict(int)
    for line in lines:
        if line["kind"] == "step":
            of_rank[line["rank"], line["generation"]].append(line["step"])
            trained[line["generation"]].add(line["rank"])
            top[line["generation"]] = max(top[line["generation"]], line["step"] + 1)
    for (name, generation), steps in of_rank.items():
        begin = begins[generation]
        assert steps == list(range(begin, begin + len(steps))), f"{name} left out steps in generation {generation}"
    members: dict[int, set[str]] = defaultdict(set)
    for line in lines:
        if line["kind"] == "state":
            members[line["generation"]].add(line["rank"])
    for generation, begin in begins.items():
        last = max((g for g in top if g < generation), default=None)
        if last is None:
            continue
        back, stayed = top[last] - begin, members[generation] & trained[last]
        assert back <= 1 or not stayed, f"generation {generation} took back {back} steps, although {stayed} stayed"


def _check_one_at_a_time(lines: Sequence[Line]) -> None:
    """No two generations train the same step at the same time."""
    begun: dict[tuple[str, int, int], float] = {}
    spans: dict[int, list[tuple[float, float, int]]] = defaultdict(list)
    for line in lines:
        if line["kind"] == "pass":
            begun.setdefault((line["rank"], line["generation"], line["step"]), line["at_s"])
        elif line["kind"] == "step":
            key = line["rank"], line["generation"], line["step"]
            at_s = float(line["at_s"])
            spans[line["step"]].append((begun.get(key, at_s), at_s, line["generation"]))
    for step, found in spans.items():
        of_generation: dict[int, tuple[float, float]] = {}
        for begin_s, end_s, generation in found:
            low, high = of_generation.get(generation, (begin_s, end_s))
            of_generation[generation] = min(low, begin_s), max(high, end_s)
        order = [of_generation[generation] for generation in sorted(of_generation)]
        for (_, end_s), (begin_s, _) in pairwise(order):
            assert end_s <= begin_s, f"step {step} was trained twice at once: {of_generation}"


def check_lives(lines: Sequence[Line], harm: Harm, elastic: Collection[str]) -> None:
    """Check the lives of all ranks: none starts twice, and each that nobody has harmed ends by itself.

    Ranks of different epochs of a job that is never rescaled do not live at the same time.
    """
    starts: dict[str, Line] = {}
    last: dict[str, float] = {}
    ended: set[str] = set()
    for line in lines:
        name = line["rank"]
        if line["kind"] == "start":
            assert name not in starts, f"rank {name} was started twice"
            starts[name] = line
        last[name] = max(line["at_s"], last.get(name, 0.0))
        if line["kind"] == "end":
            ended.add(name)
    for name in sorted(starts.keys() - ended - harm.killed):
        start = starts[name]
        if start["boot"] != harm.boots[start["host"]]:
            continue  # its host has crashed
        cut = [
            span
            for span in harm.cuts
            if span[0] == start["host"] and start["at_s"] < span[2] and span[1] < last[name] + 10.0
        ]
        assert cut, f"nobody has harmed rank {name} on {start['host']}, and yet it was killed after {last[name]:.1f}"
    spans: dict[str, list[tuple[int, float, float]]] = defaultdict(list)
    for name, start in starts.items():
        job, epoch, _ = name.rsplit(".", 2)
        if job not in elastic:
            spans[job].append((int(epoch), start["at_s"], last[name]))
    for job, found in spans.items():
        for (_, _, before_end_s), (_, after_start_s, _) in pairwise(sorted(found)):
            assert before_end_s <= after_start_s, f"job {job} ran twice at once: {sorted(found)}"
