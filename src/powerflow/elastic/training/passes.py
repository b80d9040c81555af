"""Make a step of several passes give the same result as a step of one pass, by hiding gradients from the script.

The script's loop runs once per pass, but what the script does in the loop is meant to happen once per step. Therefore:

- After the backward of each pass except the last, the gradients are taken away from the parameters. Before the next
  backward they are put back. In between, the script sees no gradients: clipping, clearing or using them has no effect.
  In the last pass, the script sees the sum of all passes.
- If something else changes between two passes (`powerflow.elastic.training.look`), the script is refused.
- A pass may have several backwards, one after another. A script must not update or clear gradients between them.
  Otherwise the second backward would use other parameters than in a step of one pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NoReturn

import torch
from torch import Tensor, nn

from powerflow.elastic.state import Training
from powerflow.elastic.training.look import TrainingSnapshot
from powerflow.elastic.training.sampling import Pass
from powerflow.errors import InputError

#: Shortest time between two searches for copies of the parameters.
_SEARCH_S = 600.0


class Passes:
    """The passes of the current step. Between passes, this object hides the gradients from the script.

    Attributes:
        count: Number of passes of the step.
        one: The current pass; None outside of passes.
        backwards: Number of calls of ``run.backward`` in this pass so far.
        updated: True if an update took effect in this step.
    """

    def __init__(self, training: Training) -> None:
        self._training = training
        self.count = 0
        self.one: Pass | None = None
        self.backwards = 0
        self.updated = False
        self._deferred = list[Callable[[], object]]()  # calls to make before the update of this step
        self._left = False  # whether gradients of the last step may be left, neither used by an update nor cleared
        self._parameters: list[nn.Parameter] = []
        self._look: TrainingSnapshot | None = None
        self._searched_s = -_SEARCH_S
        self._looked = False  # whether a snapshot was taken in this step
        self._asked = False  # whether the script asked for an update in this pass
        self._usual = 1  # most backwards of a pass so far
        self._kept: list[Tensor | None] | None = None  # hidden gradients
        self._hidden = False  # whether gradients are hidden; also after an error has ended the loop
        self._seen: list[tuple[int, int]] | None = None  # gradients that the script must not change now

    def begin_epoch(self) -> None:
        """Read the list of parameters at the start of a training epoch.

        The script may have changed which parameters are trained.
        """
        self._parameters = self._training.parameters()
        self._look = None

    def begin(self, one: Pass, number: int, count: int) -> None:
        """Begin pass ``number`` (from 0) of ``count`` passes of a step."""
        self.one = one
        self.count = count
        self.backwards = 0
        self._asked = False
        if number == 0:
            self.updated = self._looked = False
            self._deferred = []
            self._kept = self._seen = None
            self._hidden = False

    def end(self) -> None:
        """End the current pass of the script."""
        self.one = None

    def end_step(self) -> None:
        """End the step, and make the calls that `defer` has stored.

        Raises:
            InputError: The last pass had no backward.
        """
        self._do_deferred()
        self._left = not self.updated and self._training.optimizes()
        if self._kept is not None:
            self._kept = None
            self._refuse(
                "the last pass of a step had no backward", "call run.backward in every pass of a step, or in none"
            )

    def drop(self) -> None:
        """Delete all gradients, because the step is given up."""
        self._left = False
        self._kept = self._seen = None
        self._deferred = []
        self._training.drop_gradients()

    def ask(self, *, granted: bool) -> None:
        """Record that the script asks for an update (``optimizer.step()``).

        Args:
            granted: True if the update takes effect now.

        Raises:
            InputError: ``run.backward`` was not called in this pass, or between two passes there are gradients that it
                did not compute.
        """
        if not self.backwards:
            raise InputError(
                "optimizer.step() came without run.backward(loss)",
                fix="call run.backward before optimizer.step(), in place of loss.backward(), and not in a closure",
            )
        if self._kept is not None and not self._asked and any(p.grad is not None for p in self._parameters):
            self._refuse_strange()
        self._asked = True
        self.updated |= granted
        if granted:
            self._do_deferred()

    def defer(self, act: Callable[[], object]) -> bool:
        """Store a call that comes before the first backward of a pass; return False if the call can be made now.

        A stored call is made once, after the last backward of the step, so that a repeated step does not make the call
        twice.
        """
        early = self.one is not None and not self.backwards
        if early and self.one is not None and self.one.last:
            self._deferred.append(act)
        return early

    def _do_deferred(self) -> None:
        acts, self._deferred = self._deferred, []
        for act in acts:
            act()

    def before_backward(self) -> None:
        """Check that nothing has changed since the last pass, and give the parameters their gradients back.

        Raises:
            InputError: Parameters, learning rates or gradients have changed.
        """
        if self._left:
            self._refuse_left()
        if self.count < 2:
            return
        if self.backwards and self._asked:
            self._refuse(
                "the script updates parameters between two backwards of one pass",
                f"alternate training (such as a GAN) works only if each step has one pass: {_LARGER}",
            )
        if not self._looked:
            self._look_first()
        elif self._look is not None and (what := self._look.changed()):
            self._refuse(f"{what} changed between two passes", "make this change only once per step: " + _ONCE)
        if self._kept is not None:
            self._put_back()
        elif self._seen is not None and self._seen != self._see():
            self._refuse(
                "gradients were changed between two backwards of a pass, or a pass had fewer backwards than another",
                f"make this change only once per step: {_ONCE}",
            )

    def after_backward(self) -> None:
        """Hide the gradients from the script if more passes follow in this step."""
        self.backwards += 1
        if self.count < 2 or self.one is None:
            return
        more = self.backwards < self._usual  # this pass will have more backwards, as others had
        self._usual = max(self._usual, self.backwards)
        self._seen = self._see() if more else None
        if not more and not self.one.last:
            self._hidden = True
            self._kept = [parameter.grad for parameter in self._parameters]
            for parameter in self._parameters:
                parameter.grad = None

    def refuse_half_done(self) -> None:
        """Raise an error if an update took effect in this step.

        The step cannot be repeated, because the update would happen twice.

        Raises:
            InputError: An update took effect. The exit code is 1, so that the job is tried again from its checkpoint.
        """
        if self.updated:
            raise InputError(
                "another rank was lost after an update in the middle of a step, which cannot be undone: the run"
                " continues from its last checkpoint",
                where="run.backward",
                exit_code=1,
            )

    def explain(self, error: BaseException) -> InputError | None:
        """Explain an error that occurred because gradients were hidden between passes.

        Returns:
            The refusal with the explanation; None if the script failed for another reason.
        """
        if not self._hidden or not any(sign in str(error) for sign in _OF_NOTHING):
            return None
        return InputError(
            f"gradients are used before the last of the {self.count} passes of a step; there are none yet ({error})",
            fix="put code that uses gradients under `if run.updates:`, or skip parameters whose grad is None; give a"
            " scaler to run.wrap",
        )

    def rescale(self, factor: Tensor) -> None:
        """Multiply the gradients of earlier passes by a factor.

        Call this between `before_backward` and the last backward.
        """
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        torch._foreach_mul_(gradients, [factor.to(gradient) for gradient in gradients])

    def _look_first(self) -> None:
        self._looked = True
        if self._look is None:
            self._look = TrainingSnapshot(self._training)
            if time.monotonic() - self._searched_s > _SEARCH_S:
                self._look.search()
                self._searched_s = time.monotonic()
        self._look.take()

    def _put_back(self) -> None:
        assert self._kept is not None
        for parameter, gradient in zip(self._parameters, self._kept, strict=True):
            if parameter.grad is not None and bool(parameter.grad.any()):
                self._refuse_strange()
            parameter.grad = gradient
        self._kept = None
        self._hidden = False

    def _refuse_strange(self) -> NoReturn:
        self._refuse("gradients were not computed by run.backward", "call run.backward in place of loss.backward()")

    def _refuse_left(self) -> None:
        """Raise an error if the script keeps gradients from one step to the next.

        New ranks would not have these gradients.
        """
        self._left = False
        if any(p.grad is not None and bool(p.grad.any()) for p in self._parameters):
            raise InputError(
                "gradients of the step before were neither used by optimizer.step() nor cleared",
                where="run.backward",
                fix="to accumulate, give a larger global_batch; to skip an update, call optimizer.zero_grad()",
            )

    def _see(self) -> list[tuple[int, int]]:
        gradients = [parameter.grad for parameter in self._parameters]
        return [(0, 0) if gradient is None else (id(gradient), gradient._version) for gradient in gradients]

    def _refuse(self, what: str, fix: str) -> NoReturn:
        raise InputError(f"{what} (a step has {self.count} passes here)", where="run.backward", fix=fix)


#: Parts of messages of Python and torch about missing gradients, and about a norm or maximum of no gradients.
_OF_NOTHING = (
    "NoneType",
    "a non-empty TensorList",
    "a non-empty list of Tensors",
    "arg is an empty sequence",
    "iterable argument is empty",
    "No inf checks were recorded",
)
_LARGER = "give a larger batch.local_max, or a larger smallest GPU count"
_ONCE = (
    "put this code under `if run.updates:`, or give the object that does it to run.wrap; let rates depend on"
    f" run.position.step; or {_LARGER}"
)
