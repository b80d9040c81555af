"""A step of several passes ends as a step of one, or is refused in one line."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils.data import TensorDataset

from powerflow import elastic
from powerflow.elastic.run import Run
from powerflow.elastic.static_gang import StaticGang
from powerflow.errors import InputError

GENERATOR = torch.Generator().manual_seed(3)
DATA = TensorDataset(
    torch.randn(16, 4, generator=GENERATOR, dtype=torch.float64),
    torch.randn(16, 1, generator=GENERATOR, dtype=torch.float64),
)
STEPS = 8  # two epochs of four


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POWERFLOW_JOB_DIR", "POWERFLOW_RANK", "POWERFLOW_EMULATED", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


class Script:
    """A training script, ``most`` samples a pass, 4 a step; tests put in what it does of its own."""

    def __init__(self, most: int, *others: Callable[[Script], Any]) -> None:
        torch.manual_seed(1)
        self.model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)).double()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.2, momentum=0.9)
        self.made: dict[str, Any] = {}  # by the body of the loop
        self.others = [other(self) for other in others]
        self.run: Run = elastic.init()
        self.run.wrap(self.model, self.optimizer, *self.others)
        assert isinstance(self.run._gang, StaticGang)
        self.run._gang.local_batch_max = most

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        loss: Tensor = ((self.model(x) - y) ** 2).mean()
        return loss

    def train(self, body: Callable[[Script, Tensor, Tensor], None]) -> dict[str, Tensor]:
        for _ in self.run.epochs(2):
            for x, y in self.run.batches(DATA, global_batch=4):
                body(self, x, y)
        return self.model.state_dict()


def check_equal(body: Callable[[Script, Tensor, Tensor], None], *others: Callable[[Script], Any]) -> None:
    """One pass of four samples, two of two, four of one: the same parameters."""
    ends = [Script(most, *others).train(body) for most in (0, 2, 1)]
    for end in ends[1:]:
        for name, value in ends[0].items():
            torch.testing.assert_close(end[name], value, rtol=1e-10, atol=1e-12)


def check_refused(body: Callable[[Script, Tensor, Tensor], None], match: str, *others: Callable[[Script], Any]) -> None:
    """Right in one pass; in several, refused before the second step."""
    Script(0, *others).train(body)
    script = Script(2, *others)
    with pytest.raises(InputError, match=match):
        script.train(body)
    assert script.run.position.step <= 1


# -- right -----------------------------------------------------------------------------------------------------------


def test_clipping_by_hand_clips_once_a_step() -> None:
    def body(script: Script, x: Tensor, y: Tensor) -> None:
        script.optimizer.zero_grad()
        script.run.backward(script.loss(x, y))
        nn.utils.clip_grad_norm_(script.model.parameters(), 0.1)
        script.optimizer.step()

    check_equal(body)


def _none(script: Script) -> None:
    for parameter in script.model.parameters():
        parameter.grad = None


def _zero(script: Script) -> None:
    for parameter in script.model.parameters():
        if parameter.grad is not None:
            parameter.grad.detach_().zero_()


def _submodules(script: Script) -> None:
    script.model[0].zero_grad()
    script.model[2].zero_grad(set_to_none=False)


@pytest.mark.parametrize("clear", [_none, _zero, _submodules])
@pytest.mark.parametrize("first", [True, False])
def test_clearing_by_hand_clears_once_a_step(clear: Callable[[Script], None], first: bool) -> None:
    def body(script: Script, x: Tensor, y: Tensor) -> None:
        if first:
            clear(script)
        script.run.backward(script.loss(x, y))
        script.optimizer.step()
        if not first:
            clear(script)

    check_equal(body)


def test_an_update_by_hand_that_skips_what_has_no_gradient() -> None:
    def body(script: Script, x: Tensor, y: Tensor) -> None:
        script.run.backward(script.loss(x, y))
        for parameter in script.model.parameters():
            if parameter.grad is not None:
                parameter.data -= 0.1 * parameter.grad
        _none(script)

    check_equal(body)


def test_an_optimiser_that_was_not_registered() -> None:
    """A newcomer would not have its momentum, but passes do no harm."""

    def body(script: Script, x: Tensor, y: Tensor) -> None:
        own = script.made.setdefault("optimizer", torch.optim.Adam(script.model.parameters(), lr=0.01))
        script.run.backward(script.loss(x, y))
        own.step()
        own.zero_grad()
        script.optimizer.zero_grad()

    check_equal(body)


def test_several_losses_one_after_the_other_add_up() -> None:
    def body(script: Script, x: Tensor, y: Tensor) -> None:
        script.run.backward(script.loss(x, y))
        script.run.backward(script.model(x).abs().mean())
        script.optimizer.step()
        script.optimizer.zero_grad()

    check_equal(body)


def test_a_rate_that_follows_the_position() -> None:
    def body(script: Script, x: Tensor, y: Tensor) -> None:
        for group in script.optimizer.param_groups:
            group["lr"] = 0.2 / (1 + script.run.position.step)
        script.run.backward(script.loss(x, y))
        script.optimizer.step()
        script.optimizer.zero_grad()

    check_equal(body)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("backwards", [1, 2])
def test_a_schedule_at_the_head_of_the_loop(backwards: int) -> None:
    def body(script: Script, x: Tensor, y: Tensor) -> None:
        script.others[0].step()
        script.optimizer.zero_grad()
        script.run.backward(script.loss(x, y))
        if backwards == 2:
            script.run.backward(script.model(x).abs().mean())
        script.optimizer.step()

    check_equal(body, lambda script: torch.optim.lr_scheduler.ExponentialLR(script.optimizer, 0.7))


def test_batch_statistics_may_change_in_every_pass() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 1)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = elastic.init()
    run.wrap(model, optimizer)
    assert isinstance(run._gang, StaticGang)
    run._gang.local_batch_max = 2
    for _ in run.epochs(1):
        for x, y in run.batches(DATA, global_batch=4):
            run.backward(((model(x) - y) ** 2).mean())
            optimizer.step()
            optimizer.zero_grad()
    assert run.position.step == 4


# -- refused ---------------------------------------------------------------------------------------------------------


def test_an_update_between_two_backwards() -> None:
    """As a GAN trains: the second loss is to see what the first has updated."""

    def body(script: Script, x: Tensor, y: Tensor) -> None:
        for _ in range(2):
            script.optimizer.zero_grad()
            script.run.backward(script.loss(x, y))
            script.optimizer.step()

    check_refused(body, r"between two backwards of one pass.*a step has 2 passes here.*larger batch\.local_max")


@pytest.mark.parametrize("clear", [_none, _zero])
def test_a_clear_between_two_backwards(clear: Callable[[Script], None]) -> None:
    """The first backward is only for its norms, say. That there are two is known from the second pass on."""

    def body(script: Script, x: Tensor, y: Tensor) -> None:
        script.run.backward(script.model(x).abs().mean())
        clear(script)
        script.run.backward(script.loss(x, y))
        script.optimizer.step()
        script.optimizer.zero_grad()

    check_refused(body, "gradients were changed between two backwards")


def _step(script: Script, x: Tensor, y: Tensor) -> None:
    script.optimizer.zero_grad()
    script.run.backward(script.loss(x, y))
    script.optimizer.step()


def _decay(script: Script) -> None:
    for parameter in script.model.parameters():
        parameter.data.mul_(0.99)


def _decay_anew(script: Script) -> None:
    for parameter in script.model.parameters():
        parameter.data = parameter.data * 0.99


def _decay_counted(script: Script) -> None:
    with torch.no_grad():
        list(script.model.parameters())[2].mul_(0.99)


@pytest.mark.parametrize("decay", [_decay, _decay_anew, _decay_counted])
def test_parameters_changed_by_hand(decay: Callable[[Script], None]) -> None:
    def body(script: Script, x: Tensor, y: Tensor) -> None:
        _step(script, x, y)
        decay(script)

    check_refused(body, r"parameter.* changed between two passes.*if run\.updates")


class ByUpdate:
    """A schedule that is stepped by another name, with a count of the script's own."""

    def __init__(self, script: Script) -> None:
        self.optimizer = script.optimizer
        self.count = 0

    def step_update(self) -> None:
        self.count += 1
        self.optimizer.param_groups[0]["lr"] = 0.2 / self.count

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


def test_a_rate_that_counts_passes() -> None:
    def body(script: Script, x: Tensor, y: Tensor) -> None:
        _step(script, x, y)
        script.others[0].step_update()

    check_refused(body, r"a learning rate.*changed between two passes.*run\.position\.step", ByUpdate)


class Average(nn.Module):
    """An average of the parameters whose method has a name of its own."""

    def __init__(self, script: Script) -> None:
        super().__init__()
        self.module = copy.deepcopy(script.model).requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        for mine, its in zip(self.module.parameters(), model.parameters(), strict=True):
            mine.lerp_(its, 0.1)


def test_an_average_that_was_registered() -> None:
    def body(script: Script, x: Tensor, y: Tensor) -> None:
        _step(script, x, y)
        script.others[0].update(script.model)

    check_refused(body, r"Average \(module\.0\.weight\) changed between two passes", Average)


def test_an_average_that_was_registered_and_acts_once_a_step() -> None:
    ends = []
    for most in (0, 2):
        script = Script(most, Average)

        def body(script: Script, x: Tensor, y: Tensor) -> None:
            _step(script, x, y)
            if script.run.updates:
                script.others[0].update(script.model)

        script.train(body)
        ends.append(script.others[0].module[0].weight)
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-10, atol=1e-12)


def test_an_average_that_nobody_was_told_of() -> None:
    def body(script: Script, x: Tensor, y: Tensor) -> None:
        average = script.made.setdefault("average", Average(script))
        _step(script, x, y)
        average.update(script.model)

    check_refused(body, "a parameter of a Linear beside the model changed between two passes")


def test_an_average_in_a_dict() -> None:
    def body(script: Script, x: Tensor, y: Tensor) -> None:
        copies = {name: value.detach().clone() for name, value in script.model.named_parameters()}
        average = script.made.setdefault("average", copies)
        _step(script, x, y)
        for name, value in script.model.named_parameters():
            average[name].lerp_(value.detach(), 0.1)

    check_refused(body, "a copy of all parameters")


def test_a_tensor_of_the_scripts_own_may_change() -> None:
    def body(script: Script, x: Tensor, y: Tensor) -> None:
        seen = script.made.setdefault("sum", torch.zeros(6, 4, dtype=torch.float64))
        _step(script, x, y)
        seen += x.sum()

    check_equal(body)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_tensors_without_a_definite_shape() -> None:
    """As ``torch.compile`` keeps them for shapes that vary, and attention for sequences of several lengths."""
    symbolic = FakeTensorMode(shape_env=ShapeEnv()).from_tensor(torch.ones(5, 7))
    module = nn.Module()
    module.weight = nn.Parameter(symbolic)
    nested = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)])
    lazy = nn.LazyLinear(3)

    def body(script: Script, x: Tensor, y: Tensor) -> None:
        script.run.backward(script.loss(x, y))
        script.optimizer.step()
        script.optimizer.zero_grad()

    check_equal(body)
    del module, nested, lazy


def test_gradients_from_elsewhere() -> None:
    def body(script: Script, x: Tensor, y: Tensor) -> None:
        script.run.backward(script.loss(x, y))
        script.model(x).abs().mean().backward()
        script.optimizer.step()
        script.optimizer.zero_grad()

    # `zero_grad` clears them in each pass, so they would count in the last one alone
    check_refused(body, r"not computed by run\.backward")


def test_a_last_pass_without_backward() -> None:
    passes = 0

    def body(script: Script, x: Tensor, y: Tensor) -> None:
        nonlocal passes
        passes += 1
        if passes % 2:
            script.run.backward(script.loss(x, y))

    with pytest.raises(InputError, match="last pass of a step had no backward"):
        Script(2).train(body)


def test_an_update_by_hand_is_explained() -> None:
    """It finds no gradients between passes; what Python says of that is put into words when the script ends."""

    def body(script: Script, x: Tensor, y: Tensor) -> None:
        script.run.backward(script.loss(x, y))
        for parameter in script.model.parameters():
            parameter.data.add_(parameter.grad, alpha=-0.1)  # type: ignore[arg-type]
        _none(script)

    Script(0).train(body)
    script = Script(2)
    with pytest.raises(TypeError) as raised:
        script.train(body)
    explained = script.run._explain(raised.value)
    assert explained is not None
    assert "before the last of the 2 passes" in str(explained)
    assert "if run.updates:" in str(explained)
    assert script.run._explain(TypeError("something else")) is None


def norm_of_those_there(script: Script) -> None:
    torch.stack([p.grad.norm() for p in script.model.parameters() if p.grad is not None])


def largest_of_those_there(script: Script) -> None:
    max(p.grad.abs().max() for p in script.model.parameters() if p.grad is not None)


def scaler_that_was_not_registered(script: Script) -> None:
    scaler = script.made.setdefault("scaler", torch.amp.GradScaler("cpu"))
    scaler.scale(torch.ones(()))
    scaler.step(script.optimizer)


@pytest.mark.parametrize("use", [norm_of_those_there, largest_of_those_there, scaler_that_was_not_registered])
def test_what_needs_some_gradient_is_explained(use: Callable[[Script], None]) -> None:
    def body(script: Script, x: Tensor, y: Tensor) -> None:
        script.run.backward(script.loss(x, y))
        use(script)

    script = Script(2)
    with pytest.raises((RuntimeError, ValueError, AssertionError)) as raised:
        script.train(body)
    explained = script.run._explain(raised.value)
    assert explained is not None
    assert "before the last of the 2 passes" in str(explained)


def test_a_peer_lost_after_an_update_in_the_middle_of_a_step() -> None:
    """The step would be done again, and the update with it: twice."""
    script = Script(0)

    def body(script: Script, x: Tensor, y: Tensor) -> None:
        script.run.backward(script.loss(x, y))
        script.optimizer.step()
        assert isinstance(script.run._gang, StaticGang)
        script.run._gang.whole = False  # as in the second backward of a GAN

    with pytest.raises(InputError, match="an update in the middle of a step") as raised:
        script.train(body)
    assert raised.value.exit_code == 1  # so the job is tried again
    assert script.run.position.step == 0
