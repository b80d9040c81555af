"""Ranks that have come apart end the job with that reason; what may differ between them does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._C._distributed_c10d import TCPStore

from powerflow.elastic import checksum
from powerflow.elastic.checksum import RankComparison
from powerflow.elastic.mailbox import Phase
from powerflow.elastic.state import Training
from powerflow.elastic.training.sampling import Position
from tests.elastic.proofs import check_equal
from tests.elastic.small import DRIFTING_EPOCHS
from tests.elastic.supervisor import Supervisor
from tests.elastic.trainee import STEPS_PER_EPOCH

LAST_STEP = DRIFTING_EPOCHS * STEPS_PER_EPOCH


def test_ranks_that_update_by_numbers_of_their_own(tmp_path: Path) -> None:
    with Supervisor(tmp_path, script="drifts") as job:
        names = job.start(3)
        job.run_out()
        assert set(job.codes().values()) == {1}, job.story()
        reports = job.mailbox.reports(names)
        assert {report.step for report in reports} == {LAST_STEP}  # before any was done
        for report in reports:
            assert f"parameters of ranks differ: at step {LAST_STEP} parameter 2.weight" in report.refusal
            assert "not the same on rank 1, 2 as on rank 0" in report.refusal
            assert report.phase is not Phase.DONE


def test_ranks_that_have_come_apart_do_not_go_on_in_another_number(tmp_path: Path) -> None:
    with Supervisor(tmp_path, script="drifts") as job:
        names = job.start(2)
        job.allow(2 * STEPS_PER_EPOCH - 9)
        job.drive(lambda: min(r.step for r in job.mailbox.reports(names)) > 2 * STEPS_PER_EPOCH, "the third epoch")
        new = job.launch(1)
        job.wait_ready(new)
        job.post([*names, *new])
        job.drive(lambda: job.mailbox.rendezvous(2) is not None, "the meeting is open")
        place = job.mailbox.rendezvous(2)
        assert place is not None
        store = TCPStore(place["address"], place["port"], is_master=False, wait_for_workers=False)
        job.wait(lambda: store.add("arrived", 0) == 1, "the new rank is there")
        job.run_out()
        assert set(job.codes().values()) == {1}, job.story()
        refusal = job.mailbox.reports(names)[0].refusal
        assert "parameter 2.weight" in refusal
        assert int(refusal.split("at step ")[1].split()[0]) < LAST_STEP


def test_statistics_dropout_and_frozen_layers_may_differ(tmp_path: Path) -> None:
    with Supervisor(tmp_path, script="differs_in_what_may") as job:
        job.start(2)
        job.run_out()
        assert set(job.codes().values()) == {0}, job.story()
        means = [entry["mean"] for entry in job.entries("end")]
        assert means[0] != means[1]


def test_gradients_are_exchanged_whichever_way_the_model_is_called(tmp_path: Path) -> None:
    """By its own name, and with two forwards before two backwards: DDP would leave the exchange out without a word."""
    ends = []
    for ranks, most in ((1, 0), (2, 0), (2, 2)):
        (directory := tmp_path / f"{ranks}-{most}").mkdir()
        with Supervisor(directory, script="calls_the_model_itself", local_batch_max=most) as job:
            job.start(ranks)
            job.run_out()
            assert set(job.codes().values()) == {0}, job.story()
            check_equal(job)
            ends.append([torch.tensor(weights) for weights in job.entries("end")[0]["weights"]])
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("shape", [(), (3,), (8,), (5, 7), (4, 6, 2)])
def test_one_bit_changes_a_sum(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = torch.arange(200).to(dtype)[5 : 5 + torch.Size(shape).numel()].reshape(shape)
    before = checksum._sums([tensor])
    assert before.tolist() == checksum._sums([tensor.clone()]).tolist()
    tensor.view(-1).view(torch.uint8)[-1] ^= 1
    assert before.tolist() != checksum._sums([tensor]).tolist()


def test_sums_do_not_depend_on_how_a_tensor_lies_in_memory_beyond_its_values() -> None:
    last = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    assert checksum._sums([last]).tolist() == checksum._sums([last.clone()]).tolist()
    assert checksum._sums([torch.empty(0), last[:0]]).tolist() == [0, 0]


def test_a_digest_depends_on_the_order() -> None:
    one, other = torch.tensor([3, 4]), torch.tensor([4, 3])
    assert checksum._digest(one) != checksum._digest(other)


def comparison(model: nn.Module) -> tuple[RankComparison, Training]:
    training = Training(model, (), {})
    return RankComparison(training), training


def test_comparing_takes_a_bounded_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock by hand: sums take 20 ms, steps 10 ms, so at a share of 0.05 % there are 4,100 steps between two."""
    now = [0.0]
    monkeypatch.setattr("powerflow.elastic.checksum.time.monotonic", lambda: now[0])
    sums = checksum._sums

    def slow(parameters: list[Tensor]) -> Tensor:
        now[0] += 0.02
        return sums(parameters)

    monkeypatch.setattr(checksum, "_sums", slow)
    compared, training = comparison(nn.Linear(2, 1))
    compared.compare(0, 1, formed=True)
    assert compared.due == checksum.SOON
    for steps in (10, 4100):
        training.position = Position(training.position.step + steps)
        now[0] += steps * 0.01
        before = training.position.step
        compared.compare(0, 1)
        assert compared.due - before == 4100


def test_a_long_step_is_compared_every_hundred() -> None:
    compared, training = comparison(nn.Linear(2, 1))
    compared.compare(0, 1, formed=True)
    training.position = Position(0)
    compared.compare(0, 1)
    assert compared.due == checksum.FEWEST
    assert not compared.has_news
