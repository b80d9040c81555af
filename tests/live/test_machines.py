"""An elastic job on two hosts lives through one fault of each kind, and the checks of this find what they look for."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest

from powerflow.testing.hosts import why_not
from tests.live import machines_proofs as proofs
from tests.live.machines_bench import MachinesBench
from tests.skewed_clock import why_not as no_other_clock
from tests.slow import slow


@pytest.mark.skipif(bool(why_not()), reason=why_not() or "")
def test_an_elastic_job_lives_through_each_fault() -> None:
    # not in /dev/shm, where the folders of tests may be: each host has its own, and this one is shared
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="powerflow-machines-") as directory:
        Path(directory).chmod(0o755)
        bench = MachinesBench(Path(directory), 2, seed=1, elastic=1, epochs=15)
        outcome = bench.go(["rank", "agent", "cut 6", "controller", "crash"])
    assert outcome.found.steps >= 15 * 13
    assert outcome.found.generations > 1
    assert outcome.faults.total() == 5


@slow
@pytest.mark.skipif(bool(why_not() or no_other_clock()), reason=why_not() or no_other_clock() or "")
def test_an_elastic_job_lives_on_hosts_whose_clocks_are_two_hours_apart() -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="powerflow-machines-") as directory:
        Path(directory).chmod(0o755)
        bench = MachinesBench(Path(directory), 2, seed=2, elastic=1, epochs=30, skews_s={1: 3600, 2: -3600})
        outcome = bench.go(["rank", "agent", "cut 6", "controller"])
    assert outcome.found.steps >= 30 * 13
    assert outcome.found.generations > 1


def _line(kind: str, rank: str, at_s: float, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "rank": rank, "at_s": at_s, **more}


def _trained(rank: str, generation: int, steps: range, at_s: float, lineage: str = "") -> list[dict[str, Any]]:
    """A rank joins a generation and trains some steps alone, one in each second."""
    found = [_line("state", rank, at_s, generation=generation, step=steps.start, hash=f"{lineage}{steps.start}")]
    for k in steps:
        epoch, within = divmod(k, proofs.ORDER.steps)
        begin = within * proofs.ORDER.global_batch
        index = proofs.ORDER.epoch(epoch)[begin : begin + proofs.ORDER.size(within)].tolist()
        where = {"generation": generation, "step": k}
        found.append(_line("pass", rank, at_s + k - steps.start, epoch=epoch, within=within, index=index, **where))
        found.append(_line("step", rank, at_s + k - steps.start + 0.9, hash=f"{lineage}{k + 1}", **where))
    return found


def _whole() -> list[dict[str, Any]]:
    """Five steps on one rank; then another rank does the rest from a checkpoint of step 3."""
    return [*_trained("1.1.0", 1, range(5), 100.0), *_trained("1.2.0", 2, range(3, 13), 110.0)]


def _check_all(lines: list[dict[str, Any]]) -> proofs.Found:
    begins = {line["generation"]: line["step"] for line in lines if line["kind"] == "state"}
    proofs._check_equal(lines)
    proofs._check_one_line_of_states(lines, begins)
    proofs._check_taken_back(lines, begins)
    proofs._check_one_at_a_time(lines)
    return proofs._check_samples(lines, 1)


def test_steps_after_the_checkpoint_are_redone() -> None:
    assert _check_all(_whole()).redone == 2


def test_a_sample_that_is_missing_is_found() -> None:
    lines = _whole()
    next(line for line in lines if line["kind"] == "pass" and line["step"] == 7)["index"].pop()
    with pytest.raises(AssertionError, match="step 7 of epoch 0"):
        _check_all(lines)


def test_a_step_that_was_left_out_is_found() -> None:
    lines = [line for line in _whole() if line.get("step") != 8 or line["kind"] == "state"]
    with pytest.raises(AssertionError, match="left out steps"):
        _check_all(lines)


def test_ranks_that_differ_are_found() -> None:
    lines = [*_whole(), _line("step", "1.2.1", 115.5, generation=2, step=4, hash="other")]
    with pytest.raises(AssertionError, match="ranks differ"):
        _check_all(lines)


def test_a_state_that_comes_from_nowhere_is_found() -> None:
    lines = [*_trained("1.1.0", 1, range(5), 100.0), *_trained("1.2.0", 2, range(3, 13), 110.0, "other ")]
    with pytest.raises(AssertionError, match="does not follow generation 1"):
        _check_all(lines)


def test_steps_taken_back_although_a_rank_stayed_are_found() -> None:
    lines = [*_trained("1.1.0", 1, range(5), 100.0), *_trained("1.1.0", 2, range(3, 13), 110.0)]
    with pytest.raises(AssertionError, match="took back 2 steps"):
        _check_all(lines)


def test_steps_that_were_lost_before_are_not_taken_back_again() -> None:
    lost = [*_trained("1.1.0", 1, range(8), 100.0), *_trained("1.2.0", 2, range(3, 5), 110.0)]
    assert _check_all([*lost, *_trained("1.2.0", 3, range(5, 13), 120.0)]).redone == 5


def test_a_step_that_two_generations_train_at_once_is_found() -> None:
    lines = [*_trained("1.1.0", 1, range(5), 100.0), *_trained("1.2.0", 2, range(3, 13), 103.5)]
    with pytest.raises(AssertionError, match="step 3 was trained twice at once"):
        _check_all(lines)


def _lived(rank: str, boot: str, from_s: float, to_s: float, *, ends: bool) -> list[dict[str, Any]]:
    end = [_line("end", rank, to_s)] if ends else []
    return [_line("start", rank, from_s, host="h1", pid=1, boot=boot), _line("lives", rank, to_s), *end]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (_lived("7.1.0", "b", 1.0, 5.0, ends=True), ""),
        (_lived("7.1.0", "b", 1.0, 5.0, ends=False), "nobody has harmed rank 7.1.0"),
        (_lived("7.1.1", "b", 1.0, 5.0, ends=False), ""),  # killed
        (_lived("7.1.0", "a", 1.0, 5.0, ends=False), ""),  # its host has crashed
        (_lived("7.1.0", "b", 98.0, 101.0, ends=False), ""),  # its host was cut
        (_lived("7.1.0", "b", 1.0, 5.0, ends=True) * 2, "was started twice"),
        (
            _lived("7.1.0", "a", 1.0, 5.0, ends=False) + _lived("7.2.0", "b", 4.0, 6.0, ends=True),
            "job 7 ran twice at once",
        ),
    ],
)
def test_lives_that_cannot_be_are_found(lines: list[dict[str, Any]], said: str) -> None:
    harm = proofs.Harm({"7.1.1"}, [("h1", 100.0, 112.0)], {"h1": "b"})
    if not said:
        proofs.check_lives(lines, harm, ())
        return
    with pytest.raises(AssertionError, match=said):
        proofs.check_lives(lines, harm, ())
