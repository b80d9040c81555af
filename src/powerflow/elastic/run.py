"""Define the interface for training scripts: `Run` replaces DDP, the sampler, the loader and ``loss.backward``.

The script keeps its own loops. Each turn of the inner loop is one pass: forward and backward on one local batch. After
the last pass of a step, all ranks have the mean gradient of the global batch, and the script's ``optimizer.step()``
takes effect. If another rank is lost during a step, the whole step has no effect. The loop then continues with what all
remaining ranks agree on: the same step again, the next step, or the next epoch.
"""

from __future__ import annotations

import atexit
import sys
import time
from collections.abc import Generator, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from powerflow.elastic import foreign, group, refusal
from powerflow.elastic.environment import RankPlace, find_mailbox, find_pacer, first_place, place_in
from powerflow.elastic.exchange import Exchange
from powerflow.elastic.fence import SharedFolderWatch
from powerflow.elastic.gang import GangMember
from powerflow.elastic.kept import Kept
from powerflow.elastic.lost import LostWatch
from powerflow.elastic.mailbox import Phase
from powerflow.elastic.placed import Placed
from powerflow.elastic.reporter import Reporter
from powerflow.elastic.state import Stateful, Training
from powerflow.elastic.static_gang import StaticGang, open_group
from powerflow.elastic.stuck import StuckWatch
from powerflow.elastic.training.accelerated import tell_accelerate
from powerflow.elastic.training.batches import Batches, whole
from powerflow.elastic.training.gate import gate_all
from powerflow.elastic.training.loader import Feed
from powerflow.elastic.training.loop import OpenLoop, StepTimer, TrainedLoop
from powerflow.elastic.training.passes import Passes
from powerflow.elastic.training.sampling import Pass, Position, SampleOrder
from powerflow.elastic.training.token_mean import TokenMean
from powerflow.elastic.training.wrapped import Wrapped
from powerflow.errors import InputError


class Run(Placed):
    """An elastic run, as one rank sees it. Create it with `powerflow.elastic.init`."""

    def __init__(self) -> None:
        self._mailbox, self._name = find_mailbox()
        self._reporter = Reporter(self._mailbox, self._name)
        self._pacer = find_pacer()
        self._training: Training | None = None
        self._gang: GangMember | StaticGang | None = None
        self._passes: Passes | None = None
        self._feed: Feed | None = None
        self._kept: list[Kept] = []
        self._token_mean = TokenMean()
        self._exchange = Exchange()
        self._epoch: int | None = None  # the epoch of the script, which may be behind that of the position
        self._epochs = range(0)
        self._trained_loop = TrainedLoop()
        self._open_epochs, self._open_batches = OpenLoop(), OpenLoop()
        self._timer = StepTimer()
        refusal.install(self._reporter, self._explain, in_place=self._mailbox is not None)
        self._prepare()

    def _prepare(self) -> None:
        if self._mailbox is None:
            open_group()
        else:
            foreign.refuse_own_group()
            tell_accelerate(self._place)

    @property
    def generation(self) -> int:
        """Number that rises whenever the set of ranks changes; 0 before the first training epoch."""
        return 0 if self._gang is None else self._gang.generation

    @property
    def position(self) -> Position:
        """How much the run has trained: steps, training epoch, samples."""
        return Position() if self._training is None else self._training.position

    @property
    def updates(self) -> bool:
        """True if ``optimizer.step()`` takes effect now: inside a step, only in the step's last pass."""
        one = self._pass
        if one is not None:
            return one.last and self._gang is not None and self._gang.whole
        return self._epoch is None or self.position.epoch == self._epoch

    def wrap(self, model: nn.Module, *others: Stateful, **ddp_options: Any) -> nn.Module:
        """Return the wrapped model, and register everything that is trained with it.

        The model itself is the attribute ``module`` of the result, as with DDP.

        Args:
            model: The model, on its device. Call this where the script would call ``DDP(model)``.
            others: Optimisers, LR schedulers, gradient scaler, averages: everything with ``state_dict`` and
                ``load_state_dict`` that a new rank must have.
            ddp_options: Options for `torch.nn.parallel.DistributedDataParallel`.

        Raises:
            InputError: ``wrap`` was called before, or the model or another object does not have its whole state on each
                rank, or an optimiser trains parameters that are not in the model.
        """
        if self._training is not None:
            raise InputError("wrap was called twice", fix="put modules that are trained together into one module")
        foreign.refuse_sharded(model, others)
        foreign.refuse_strangers(model, others)
        self._prepare()
        self._training = Training(model, [*others, *self._kept], ddp_options)
        self._passes = Passes(self._training)
        for other in others:
            gate_all(other, self._may_update, lambda: self.updates, self._passes.defer)
        if self._mailbox is None:
            self._gang = StaticGang(self._training)
        else:
            gang = self._gang = GangMember(self._mailbox, self._name, self._training, self._reporter, self._idle)
            self._reporter.watches = [LostWatch(gang).look, StuckWatch(gang).look, SharedFolderWatch(gang).look]
            atexit.register(self._leave_epochs)
        return Wrapped(model, self)

    def keep(self, **values: Any) -> Kept:
        """Return plain values, such as the best accuracy so far, that belong to the state of the run.

        Args:
            values: Name and first value of each. They must be the same on all ranks at the end of each step.

        Raises:
            InputError: The model was wrapped before.
        """
        if self._training is not None:
            raise InputError("keep was called after wrap", where="run.keep", fix="call run.keep before run.wrap")
        self._kept.append(Kept(values))
        return self._kept[-1]

    def epochs(self, count: int, *, start: int = 0) -> Iterator[int]:
        """Iterate over the training epochs that are left to train, out of 0 to ``count`` − 1.

        A new rank begins with the current epoch of the run. If a script breaks out of this loop, training is complete.

        Args:
            count: Number of epochs.
            start: First epoch of a new run, for a script that has loaded its own checkpoint of earlier epochs. A run
                that PowerFlow resumes ignores ``start`` and continues where it stopped. The step number of a new run
                begins at 0, whatever ``start`` is.

        Raises:
            InputError: `wrap` was not called before, or ``epochs`` was called before, or ``start`` is negative.
        """
        self._parts()
        self._open_epochs.refuse_epochs(start)
        epochs = self._count_epochs(range(start, count))
        self._open_epochs.open(epochs)
        return epochs

    def _count_epochs(self, all_epochs: range) -> Generator[int]:
        training, gang = self._parts()
        self._epochs, count = all_epochs, all_epochs.stop
        gang.join()
        if training.position.step == 0:
            training.position = training.position._replace(epoch=max(all_epochs.start, training.position.epoch))
        self._reporter.does(Phase.OUTSIDE)
        if self._pacer is not None:
            self._pacer.begin()
        while training.position.epoch < count:
            epoch = self._epoch = training.position.epoch
            try:
                yield epoch
            except GeneratorExit:
                self._open_batches.close()
                self._idle()
                gang.stop()
                raise
            self._open_batches.close()
            if training.position.epoch == epoch:  # otherwise the other ranks are further, and this one follows them
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
    ) -> Batches:
        """Return a loader of this rank's part of a training epoch. The loader yields one batch per pass.

        The loader may be created before the first epoch. The script may iterate over it once in each epoch.

        Args:
            dataset: A data set with a length and items by index.
            global_batch: Samples per step over all ranks; it does not depend on the number of ranks.
            shuffle: True for a random order of the samples, which differs between epochs.
            seed: Seed of the random orders.
            drop_last: True to leave out the last step of an epoch if it has fewer samples than ``global_batch``.
            loader_options: Options for `torch.utils.data.DataLoader`: workers, collation, pinned memory and so on.

        Raises:
            InputError: An option is one that PowerFlow decides itself, or the data set is too small for one step. If
                the script iterates outside `epochs`, or twice in one epoch, the loader raises this error.
        """
        global_batch = whole(global_batch)
        if self._feed is None or not self._feed.serves(dataset, loader_options):
            self._feed = Feed(dataset, loader_options)
        order = SampleOrder(len(dataset), global_batch, shuffle, seed, drop_last)  # type: ignore[arg-type]  # Feed has checked it
        order.refuse_too_few()
        if self._epoch is not None:
            self._open_batches.close()
            self._trained_loop.refuse_second(self._epoch, dataset, order, self.position)
        return Batches(self._feed, order, self._begin_batches)

    def _begin_batches(self, batches: Batches) -> Generator[Any]:
        """Return the generator of batches for the script's current training epoch.

        Raises:
            InputError: There is no current epoch, or the script has already trained all batches of this epoch.
        """
        self._parts()
        if self._epoch is None:
            fix = "iterate inside the loop `for epoch in run.epochs(10):`"
            raise InputError("batches was called outside of epochs", fix=fix)
        order = batches.order
        self._open_batches.close()
        self._trained_loop.refuse_second(self._epoch, batches.dataset, order, self.position)
        self._trained_loop.begin(self._epoch, batches.dataset, order)
        steps_total = len(self._epochs) * order.steps
        self._reporter.note(epoch=self._epoch, global_batch=order.global_batch, steps_total=steps_total)
        loop = self._batches(batches.feed, order, self._epoch)
        self._open_batches.open(loop)
        return loop

    def _batches(self, feed: Feed, order: SampleOrder, epoch: int) -> Generator[Any]:
        training, gang = self._parts()
        gathering = self._passes
        assert gathering is not None
        gathering.begin_epoch()
        if gang.parallel is not None and training.trained() != training.in_parallel_trained:
            gang.parallel = training.in_parallel()  # DDP exchanges the parameters that were trained when it was created
        loaded: Iterator[Any] | None = None
        while training.position.epoch == epoch and training.position.within < order.steps:
            if gang.between_steps():
                loaded = None
                gathering.drop()
                continue
            self._reporter.enter(Phase.COMPUTING)
            if loaded is None:
                most, least = gang.local_batch_max, training.fewest_samples()
                loaded = feed.start(order, training.position, gang.rank, gang.ranks, most, least)
            began_s = time.monotonic()
            passes = feed.share.passes(training.position.within)
            self._token_mean.begin_step()
            for number, one in enumerate(passes):
                gathering.begin(one, number, len(passes))
                batch = next(loaded)
                try:
                    yield batch
                except GeneratorExit:  # the script breaks out of its loop
                    self._reporter.does(Phase.OUTSIDE)
                    if one.last and gathering.backwards and gang.whole:
                        self._end_step(order, passes, began_s)
                    else:  # this step was trained in part, or not at all
                        gathering.drop()
                    raise
                finally:
                    gathering.end()
                if not gang.whole:
                    gathering.refuse_half_done()
                    break
            else:
                self._end_step(order, passes, began_s)

    def backward(self, loss: Tensor, weight: float | Tensor | None = None) -> None:
        """Compute gradients; call this in place of ``loss.backward()``.

        After the last pass of a step, each rank holds the gradient of the mean loss over the global batch. If the loss
        is a mean over something other than samples (such as tokens without padding), give their number as ``weight``::

            run.backward(loss, weight=(labels != -100).sum())

        With l the mean loss of a pass over w tokens, all ranks then get the gradient of ``Σ w·l / Σ w``. The sums are
        over all ranks and passes of the step (`powerflow.elastic.training.token_mean`).

        Args:
            loss: Mean loss of the local batch, one number. If there is a gradient scaler, it must have scaled the loss.
            weight: Number ≥ 0 of the tokens, pixels and so on over which the loss is a mean; None for samples. A weight
                on a GPU is not read, so that training does not wait for the GPU. Then the gradients must be finite even
                if the weight is 0.

        Raises:
            InputError: The script does something between passes that would give another result than in a single pass.
        """
        training, gang = self._parts()
        passes = self._passes
        if passes is None or passes.one is None:
            raise InputError("run.backward was called outside of run.batches", fix="call loss.backward() instead")
        if not gang.whole:
            passes.backwards += 1
            return  # a rank was lost in forward: this step will be done again
        passes.before_backward()
        together = passes.one.last and gang.ranks > 1
        if together:
            self._reporter.enter(Phase.SYNCING)

        def go() -> None:
            scaled = self._token_mean.scale(loss, weight, passes, gang.ranks)
            if scaled is None:
                scaled = training.nothing()
                self._exchange.disarm()
            if together:
                self._exchange.arm(gang, scaled)
            scaled.backward()  # type: ignore[no-untyped-call]

        if lost := group.lost_before(go):
            passes.backwards += 1
            gang.lose(lost)
            return
        if together:
            gang.exchanged = training.position.step
        passes.after_backward()
        self._reporter.enter(Phase.OUTSIDE if passes.one.last else Phase.COMPUTING)

    # -- for Wrapped and the gates ----------------------------------------------------------------------------------

    def forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the model's output. `Wrapped` calls this."""
        trains = self._pass is not None and torch.is_grad_enabled()
        self._reporter.does(Phase.COMPUTING if trains else Phase.EVALUATING)
        return self._exchange.forward(self._gang, self._pass, module, args, kwargs)

    def _may_update(self) -> bool:
        if self._pass is not None and self._passes is not None:
            self._passes.ask(granted=self.updates)
        return self.updates

    # -- inside ------------------------------------------------------------------------------------------------------

    @property
    def _pass(self) -> Pass | None:
        """The script's current pass; None outside of passes."""
        return None if self._passes is None else self._passes.one

    def _place(self) -> RankPlace:
        """Return the number of this rank in its gang, and the number of all ranks.

        Before the first epoch, these are the numbers that will hold in the first epoch.
        """
        gang = self._gang
        if isinstance(gang, GangMember) and gang.generation and gang.target is not None:
            return place_in(gang.target, self._name) or RankPlace(gang.rank, gang.ranks, gang.rank)
        return first_place(self._mailbox, self._name)

    def _parts(self) -> tuple[Training, GangMember | StaticGang]:
        if self._training is None or self._gang is None:
            raise InputError("run.wrap has not been called", fix="call model = run.wrap(model, optimizer, …) before")
        return self._training, self._gang

    def _explain(self, error: BaseException) -> InputError | None:
        """Record an error that ends the script; return the refusal that explains the error, or None."""
        if isinstance(self._gang, GangMember):
            self._gang.fail()
        return None if self._passes is None else self._passes.explain(error)

    def _leave_epochs(self) -> None:
        """Close the loop over training epochs when the script ends, unless an error has ended the script."""
        if not hasattr(sys, "last_value"):
            self._open_epochs.close()

    def _end_step(self, order: SampleOrder, passes: tuple[Pass, ...], began_s: float) -> None:
        training, gang = self._parts()
        if self._passes is not None:
            self._passes.end_step()
        at = training.position
        size = {"local_batch": max(one.end - one.begin for one in passes), "accumulation": len(passes)}
        if self._pacer is not None:
            self._pacer.pace(gpus=gang.ranks, nodes=gang.nodes, began_s=began_s, **size)
        gang.step_ended_s = time.monotonic()
        timed = self._timer.add(gang.generation, gang.step_ended_s - began_s)
        training.position = Position(at.step + 1, at.epoch, at.within + 1, at.samples + order.size(at.within))
        self._reporter.note(step=training.position.step, samples=training.position.samples, **timed, **size)

    def _idle(self) -> None:
        if self._pacer is not None:
            self._pacer.idle()
