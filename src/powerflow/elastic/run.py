"""What a training script sees: `Run` takes the place of DDP, of sampler and loader, and of ``loss.backward``.

The script keeps its own loop. Each turn of the inner loop is one pass (forward and backward on one local batch); after
the last pass of a step all ranks have the mean gradient of the global batch, and the script's own ``optimizer.step()``
takes effect. When a peer is lost in a step, nothing of that step takes effect, and the loop goes on with what all
survivors agree on: the same step again, or the next one, or the next epoch.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import time
import weakref
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from powerflow.elastic import group
from powerflow.elastic.fixed import Fixed
from powerflow.elastic.gang import Gang
from powerflow.elastic.gate import gate, gate_all
from powerflow.elastic.loader import Feed
from powerflow.elastic.mailbox import CHECKPOINT_FILE, JOB_DIR, RANK_NAME, Mailbox, Phase
from powerflow.elastic.order import Order, Pass, Position
from powerflow.elastic.reporter import Reporter
from powerflow.elastic.state import Stateful, Training
from powerflow.errors import InputError

if TYPE_CHECKING:
    from powerflow.device.pacer import Pacer


class Run:
    """One rank's view of an elastic run; `powerflow.elastic.init` makes it."""

    def __init__(self) -> None:
        directory, name = os.environ.get(JOB_DIR), os.environ.get(RANK_NAME)
        if (directory is None) != (name is None):
            raise InputError(f"only one of {JOB_DIR} and {RANK_NAME} is set", fix="set both, or none for a plain run")
        self._mailbox = None if directory is None else Mailbox(directory, os.environ.get(CHECKPOINT_FILE))
        if self._mailbox is not None:
            self._mailbox.create()
            _make_folder(self._mailbox.checkpoint.parent)
        self._name = name or ""
        self._reporter = Reporter(self._mailbox, self._name)
        self._pacer = _pacer()
        self._training: Training | None = None
        self._gang: Gang | Fixed | None = None
        self._feed: Feed | None = None
        self._pass: Pass | None = None  # that the script is in
        self._went_back = False  # whether it has called `backward` in this pass
        self._holds_gradients = False  # of passes of this step, that no update has used yet
        self._left_gradients = False  # of a step before, neither used by an update nor cleared
        self._epoch: int | None = None  # that the script is in; it may lag behind the position
        self._epochs = 0
        self._taken: tuple[int, int, Order] | None = None  # epoch, data set, order of the last call of `batches`
        # No more than weakly: a script that breaks out of its loop lets go of it, and then it ends at once.
        self._open_epochs: weakref.ref[Generator[int]] | None = None
        self._open_batches: weakref.ref[Generator[Any]] | None = None
        self._timed_steps, self._timed_s, self._timed_generation = 0, 0.0, 0

    @property
    def rank(self) -> int:
        """Number of this rank in its gang now; 0 before the first epoch."""
        return 0 if self._gang is None else self._gang.rank

    @property
    def ranks(self) -> int:
        """Ranks of the gang now."""
        return 1 if self._gang is None else self._gang.ranks

    @property
    def generation(self) -> int:
        """Rises whenever the gang becomes another one; 0 before the first epoch."""
        return 0 if self._gang is None else self._gang.generation

    @property
    def position(self) -> Position:
        """How far the run is."""
        return Position() if self._training is None else self._training.position

    @property
    def updates(self) -> bool:
        """Whether ``optimizer.step()`` would take effect here: only in the last pass of a step."""
        if self._pass is not None:
            return self._pass.last and self._gang is not None and self._gang.whole
        return self._epoch is None or self.position.epoch == self._epoch

    def wrap(self, model: nn.Module, *others: Stateful, **ddp_options: Any) -> nn.Module:
        """Take charge of a model and of all that is trained with it.

        Args:
            model: Where the script would call ``DDP(model)``, on its device.
            others: Optimisers, LR schedulers, gradient scaler, averages: all that a newcomer must have. Anything with
                ``state_dict`` and ``load_state_dict``.
            ddp_options: For `torch.nn.parallel.DistributedDataParallel`.

        Returns:
            A module to be called like the model; the model itself is its ``module``, as with DDP.

        Raises:
            InputError: If called twice.
        """
        if self._training is not None:
            raise InputError("wrap was called twice", fix="put modules that are trained together into one module")
        self._training = Training(model, others, ddp_options)
        gate(model, "zero_grad", self._may_clear)
        for other in others:
            gate_all(other, self._may_update, self._may_clear, lambda: self.updates)
        if self._mailbox is None:
            self._gang = Fixed(self._training)
        else:
            self._gang = Gang(self._mailbox, self._name, self._training, self._reporter, self._idle)
            atexit.register(self._leave_epochs)
        return Wrapped(model, self)

    def epochs(self, count: int) -> Iterator[int]:
        """The epochs that are left to train, of 0 to ``count`` − 1; a newcomer's first is where the run is.

        A script that breaks out of them has trained all it wants to.

        Raises:
            InputError: If `wrap` was not called before, or this was.
        """
        self._parts()
        if self._open_epochs is not None:
            raise InputError(
                "epochs was called twice",
                where="run.epochs",
                fix="go through all epochs in one loop, and tell phases apart by the number of the epoch",
            )
        epochs = self._count_epochs(count)
        self._open_epochs = weakref.ref(epochs)
        return epochs

    def _count_epochs(self, count: int) -> Generator[int]:
        training, gang = self._parts()
        self._epochs = count
        gang.join()
        self._reporter.does(Phase.OUTSIDE)
        if self._pacer is not None:
            self._pacer.begin()
        while training.position.epoch < count:
            epoch = self._epoch = training.position.epoch
            try:
                yield epoch
            except GeneratorExit:
                self._leave_batches()
                self._idle()
                gang.stop()
                raise
            self._leave_batches()
            if training.position.epoch == epoch:  # else the others are further, and we follow them
                training.position = training.position._replace(epoch=epoch + 1, within=0)
        self._epoch = training.position.epoch
        self._idle()
        self._reporter.note(epoch=count, step=training.position.step, steps_total=training.position.step)
        gang.finish()

    def batches(
        self,
        dataset: Dataset[Any],
        *,
        global_batch: int,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        **loader_options: Any,
    ) -> Iterator[Any]:
        """This rank's part of what is left of the epoch, one pass at a time.

        Args:
            dataset: Has a length, and items by index.
            global_batch: Samples per step over all ranks; it stays when their number changes.
            shuffle: Whether every epoch goes through the samples in an order of its own.
            seed: Fixes these orders.
            drop_last: Whether to leave out the last step of an epoch where it would be smaller.
            loader_options: For `torch.utils.data.DataLoader`: workers, collation, pinned memory, …

        Raises:
            InputError: If called outside of `epochs`, or with something that is decided here.
        """
        training, _ = self._parts()
        epoch = self._epoch
        if epoch is None:
            raise InputError("batches was called outside of epochs", fix="for epoch in run.epochs(10): …")
        if global_batch < 1:
            raise InputError(f"global_batch is {global_batch}", where="run.batches", fix="give 1 or more")
        if self._feed is None or not self._feed.serves(dataset, loader_options):
            self._feed = Feed(dataset, loader_options, training.fewest_samples())
        order = Order(len(dataset), global_batch, shuffle, seed, drop_last)  # type: ignore[arg-type]  # Feed has looked
        if not order.steps:
            raise InputError(
                f"{order.samples} samples make no step of {global_batch}",
                where="run.batches",
                fix="give a smaller global_batch, or drop_last=False",
            )
        self._leave_batches()
        if self._taken is not None and self._taken[0] == epoch:
            again = self._taken == (epoch, id(dataset), order)
            if not again or (training.position.epoch == epoch and training.position.within >= order.steps):
                raise InputError(
                    f"batches was called a second time in epoch {epoch}",
                    where="run.batches",
                    fix="it is for training alone; to evaluate, use a DataLoader of your own",
                )
        self._taken = (epoch, id(dataset), order)
        self._reporter.note(epoch=epoch, global_batch=global_batch, steps_total=self._epochs * order.steps)
        batches = self._batches(self._feed, order, epoch)
        self._open_batches = weakref.ref(batches)
        return batches

    def _batches(self, feed: Feed, order: Order, epoch: int) -> Generator[Any]:
        training, gang = self._parts()
        if gang.parallel is not None and training.trained() != training.in_parallel_trained:
            gang.parallel = training.in_parallel()  # DDP exchanges what was to be trained when it was made
        loaded: Iterator[Any] | None = None
        while training.position.epoch == epoch and training.position.within < order.steps:
            if gang.between_steps():
                loaded = None
                self._drop_gradients()
                continue
            self._reporter.enter(Phase.COMPUTING)
            if loaded is None:
                loaded = feed.start(order, training.position, gang.rank, gang.ranks, gang.local_batch_max)
            began_s = time.monotonic()
            passes = feed.share.passes(training.position.within)
            for one in passes:
                self._pass, self._went_back = one, False
                batch = next(loaded)
                try:
                    yield batch
                except GeneratorExit:  # the script breaks out of its loop
                    self._reporter.does(Phase.OUTSIDE)
                    if one.last and self._went_back and gang.whole:
                        self._end_step(order, passes, began_s)
                    else:  # it has trained this step in part, or not at all
                        self._drop_gradients()
                    raise
                finally:
                    self._pass = None
                if not gang.whole:
                    break
            else:
                self._end_step(order, passes, began_s)

    def backward(self, loss: Tensor) -> None:
        """In place of ``loss.backward()``; ``loss`` is the mean over the local batch (scaled by a scaler, if any).

        After the last pass of a step every rank holds the gradient of the mean loss over the global batch.
        """
        _, gang = self._parts()
        if self._pass is None:
            raise InputError("run.backward was called outside of batches", fix="call loss.backward() there")
        self._went_back = True
        if not gang.whole:
            return  # a peer was lost in forward: this step will be done again
        if self._left_gradients:
            self._refuse_left_gradients()
        self._holds_gradients = True
        together = self._pass.last and gang.ranks > 1
        if together:
            self._reporter.enter(Phase.SYNCING)
        if self._pass.weight != 1.0:
            loss = loss * self._pass.weight
        try:
            loss.backward()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            if not group.lost_peer(error):
                raise
            lost = str(error)
        else:
            self._reporter.enter(Phase.OUTSIDE if self._pass.last else Phase.COMPUTING)
            return
        gang.lose(lost)

    # -- what Wrapped and the gates ask ------------------------------------------------------------------------------

    def forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The model's output: by way of DDP where gradients will be exchanged, else from the model alone."""
        gang = self._gang
        training = self._pass is not None and torch.is_grad_enabled()
        self._reporter.does(Phase.COMPUTING if training else Phase.EVALUATING)
        if self._pass is None or gang is None or gang.parallel is None or not torch.is_grad_enabled():
            return module(*args, **kwargs)
        try:
            with contextlib.nullcontext() if self._pass.last else gang.parallel.no_sync():
                return gang.parallel(*args, **kwargs)
        except RuntimeError as error:
            if not group.lost_peer(error):
                raise
            lost = str(error)
        gang.lose(lost)
        return module(*args, **kwargs)  # so that the script can go on to `backward`, which will do nothing

    def _may_update(self) -> bool:
        if self._pass is not None and not self._went_back:
            raise InputError("optimizer.step() came without run.backward(loss)", fix="in place of loss.backward()")
        if self.updates:
            self._holds_gradients = self._left_gradients = False
        return self.updates

    def _may_clear(self) -> bool:
        # In the last pass all is gathered, and a script may throw it away: to skip an update that is not finite, say.
        if self._holds_gradients and not (self._went_back and self.updates):
            return False
        self._holds_gradients = self._left_gradients = False
        return True

    # -- inside ------------------------------------------------------------------------------------------------------

    def _parts(self) -> tuple[Training, Gang | Fixed]:
        if self._training is None or self._gang is None:
            raise InputError("run.wrap has not been called", fix="model = run.wrap(model, optimizer, …)")
        return self._training, self._gang

    def _leave_batches(self) -> None:
        """End a loop over batches that the script has left, but keeps (in a progress bar, say)."""
        if self._open_batches is not None:
            _close(self._open_batches)

    def _leave_epochs(self) -> None:
        """The same of epochs, when the script has come to its end; not if an error ended it."""
        if self._open_epochs is not None and not hasattr(sys, "last_value"):
            _close(self._open_epochs)

    def _end_step(self, order: Order, passes: tuple[Pass, ...], began_s: float) -> None:
        training, gang = self._parts()
        self._left_gradients = self._holds_gradients and training.optimizes()
        self._holds_gradients = False
        at = training.position
        local_batch = max(one.end - one.begin for one in passes)
        if self._pacer is not None:
            self._pacer.pace(
                gpus=gang.ranks, nodes=gang.nodes, local_batch=local_batch, accumulation=len(passes), began_s=began_s
            )
        gang.step_ended_s = time.monotonic()
        if self._timed_generation != gang.generation:
            self._timed_steps, self._timed_s, self._timed_generation = 0, 0.0, gang.generation
        self._timed_steps += 1
        self._timed_s += gang.step_ended_s - began_s
        training.position = Position(at.step + 1, at.epoch, at.within + 1, at.samples + order.size(at.within))
        self._reporter.note(
            step=training.position.step,
            samples=training.position.samples,
            timed_steps=self._timed_steps,
            timed_s=self._timed_s,
            local_batch=local_batch,
            accumulation=len(passes),
        )

    def _drop_gradients(self) -> None:
        """Forget what a failed step has left, and views of buckets of a group that is no more."""
        training, _ = self._parts()
        self._holds_gradients = self._left_gradients = False
        training.model.zero_grad(set_to_none=True)
        for thing in training.things:
            if isinstance(thing, Optimizer):
                thing.zero_grad(set_to_none=True)

    def _refuse_left_gradients(self) -> None:
        """Gradients kept from step to step are on no newcomer, and when they are used the script alone knows."""
        training, _ = self._parts()
        self._left_gradients = False
        if any(p.grad is not None and bool(p.grad.any()) for p in training.model.parameters()):
            raise InputError(
                "gradients of the step before were neither used by optimizer.step() nor cleared",
                where="run.backward",
                fix="to accumulate, give a larger global_batch; to skip an update, call optimizer.zero_grad()",
            )

    def _idle(self) -> None:
        if self._pacer is not None:
            self._pacer.idle()


class Wrapped(nn.Module):
    """Stands for the model, whatever group it is trained in."""

    def __init__(self, module: nn.Module, run: Run) -> None:
        super().__init__()
        self.module = module
        self._run = run

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output."""
        return self._run.forward(self.module, args, kwargs)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget gradients, unless a step is still gathering them."""
        if self._run._may_clear():
            super().zero_grad(set_to_none)


def _make_folder(path: Path) -> None:
    """See now, not when all must leave, that a checkpoint can be kept there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be made ({error.strerror})", where=f"checkpoint.dir {path}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise InputError("you may not write there", where=f"checkpoint.dir {path}")


def _close(loop: weakref.ref[Generator[Any]]) -> None:
    if (alive := loop()) is not None:
        alive.close()


def _pacer() -> Pacer | None:
    """What slows the steps of emulated GPUs to those of the hardware."""
    if not os.environ.get("POWERFLOW_EMULATED"):
        return None
    from powerflow.device.pacer import pacer_from_environment

    return pacer_from_environment()
