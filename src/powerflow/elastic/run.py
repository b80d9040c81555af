"""What a training script sees: `Run` takes the place of DDP, of sampler and loader, and of ``loss.backward``.

The script keeps its own loop. Each turn of the inner loop is one pass (forward and backward on one local batch); after
the last pass of a step all ranks have the mean gradient of the global batch, and the script's own ``optimizer.step()``
takes effect. When a peer is lost in a step, nothing of that step takes effect, and the loop goes on with what all
survivors agree on: the same step again, or the next one, or the next epoch.
"""

from __future__ import annotations

import atexit
import sys
import time
import weakref
from collections.abc import Generator, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from powerflow.elastic import foreign, group, refusal
from powerflow.elastic.environment import RankPlace, find_mailbox, find_pacer, first_place, place_in
from powerflow.elastic.exchange import Exchange
from powerflow.elastic.gang import GangMember
from powerflow.elastic.mailbox import Phase
from powerflow.elastic.reporter import Reporter
from powerflow.elastic.state import Stateful, Training
from powerflow.elastic.static_gang import Fixed
from powerflow.elastic.stuck import StuckWatch
from powerflow.elastic.training.accelerated import tell_accelerate
from powerflow.elastic.training.batches import Batches, whole
from powerflow.elastic.training.gate import gate_all
from powerflow.elastic.training.loader import Feed
from powerflow.elastic.training.passes import Passes
from powerflow.elastic.training.sampling import Pass, Position, SampleOrder
from powerflow.elastic.training.token_mean import TokenMean
from powerflow.elastic.training.wrapped import Wrapped
from powerflow.errors import InputError


class Run:
    """One rank's view of an elastic run; `powerflow.elastic.init` makes it."""

    def __init__(self) -> None:
        self._mailbox, self._name = find_mailbox()
        self._reporter = Reporter(self._mailbox, self._name)
        self._pacer = find_pacer()
        self._training: Training | None = None
        self._gang: GangMember | Fixed | None = None
        self._passes: Passes | None = None
        self._feed: Feed | None = None
        self._token_mean = TokenMean()
        self._exchange = Exchange()
        self._epoch: int | None = None  # that the script is in; it may lag behind the position
        self._epochs = range(0)
        self._taken: tuple[int, int, SampleOrder] | None = None  # epoch, data set, order of the last loop over batches
        # No more than weakly: a script that breaks out of its loop lets go of it, and then it ends at once.
        self._open_epochs: weakref.ref[Generator[int]] | None = None
        self._open_batches: weakref.ref[Generator[Any]] | None = None
        self._timed_steps, self._timed_s, self._timed_generation = 0, 0.0, 0
        refusal.install(self._reporter, self._explain, in_place=self._mailbox is not None)
        if self._mailbox is not None:
            foreign.refuse_own_group()
            tell_accelerate(self._place)

    @property
    def rank(self) -> int:
        """Number of this rank now; before the first epoch, the one that it is to have then."""
        return self._place().rank

    @property
    def ranks(self) -> int:
        """Ranks now; before the first epoch, those that are to be then."""
        return self._place().ranks

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
        one = self._pass
        if one is not None:
            return one.last and self._gang is not None and self._gang.whole
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
            InputError: If called twice, or with what cannot be trained as whole copies, one per rank.
        """
        if self._training is not None:
            raise InputError("wrap was called twice", fix="put modules that are trained together into one module")
        foreign.refuse_sharded(model, others)
        foreign.refuse_strangers(model, others)
        if self._mailbox is not None:
            foreign.refuse_own_group()
            tell_accelerate(self._place)
        self._training = Training(model, others, ddp_options)
        self._passes = Passes(self._training)
        for other in others:
            gate_all(other, self._may_update, lambda: self.updates, self._passes.defer)
        if self._mailbox is None:
            self._gang = Fixed(self._training)
        else:
            gang = self._gang = GangMember(self._mailbox, self._name, self._training, self._reporter, self._idle)
            self._reporter.watch = StuckWatch(gang).look
            atexit.register(self._leave_epochs)
        return Wrapped(model, self)

    def epochs(self, count: int, *, start: int = 0) -> Iterator[int]:
        """The epochs that are left to train, of 0 to ``count`` − 1; a newcomer's first is where the run is.

        A script that breaks out of them has trained all it wants to.

        Args:
            count: Number after the last epoch.
            start: First epoch of a run that begins, for a script that has read its own checkpoint of the epochs before.
                A run that PowerFlow resumes is further and goes on where it is. Steps count from 0 in either case.

        Raises:
            InputError: If `wrap` was not called before, or this was, or ``start`` is no epoch.
        """
        if start < 0:
            raise InputError(f"start is {start}", where="run.epochs", fix="give 0 or more")
        self._parts()
        if self._open_epochs is not None:
            raise InputError(
                "epochs was called twice",
                where="run.epochs",
                fix="go through all epochs in one loop, and tell phases apart by the number of the epoch",
            )
        epochs = self._count_epochs(range(start, count))
        self._open_epochs = weakref.ref(epochs)
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
    ) -> Batches:
        """This rank's part of what is left of the epoch, one pass at a time.

        May be called before the first epoch, and its result gone through in every one.

        Args:
            dataset: Has a length, and items by index.
            global_batch: Samples per step over all ranks; it stays when their number changes.
            shuffle: Whether every epoch goes through the samples in an order of its own.
            seed: Fixes these orders.
            drop_last: Whether to leave out the last step of an epoch where it would be smaller.
            loader_options: For `torch.utils.data.DataLoader`: workers, collation, pinned memory, …

        Raises:
            InputError: If gone through outside of `epochs`, or a second time; or with something that is decided here.
        """
        global_batch = whole(global_batch)
        if self._feed is None or not self._feed.serves(dataset, loader_options):
            self._feed = Feed(dataset, loader_options)
        order = SampleOrder(len(dataset), global_batch, shuffle, seed, drop_last)  # type: ignore[arg-type]  # Feed has looked
        if not order.steps:
            raise InputError(
                f"{order.samples} samples make no step of {global_batch}",
                where="run.batches",
                fix="give a smaller global_batch, or drop_last=False",
            )
        batches = Batches(self._feed, order, self._begin_batches)
        if self._epoch is not None:
            self._leave_batches()
            self._refuse_second_loop(batches)
        return batches

    def _begin_batches(self, batches: Batches) -> Generator[Any]:
        """Begin a loop over batches, in the epoch that the script is in."""
        self._parts()
        if self._epoch is None:
            raise InputError("batches was called outside of epochs", fix="for epoch in run.epochs(10): …")
        self._leave_batches()
        self._refuse_second_loop(batches)
        order = batches.order
        self._taken = (self._epoch, id(batches.dataset), order)
        steps_total = len(self._epochs) * order.steps
        self._reporter.note(epoch=self._epoch, global_batch=order.global_batch, steps_total=steps_total)
        loop = self._batches(batches.feed, order, self._epoch)
        self._open_batches = weakref.ref(loop)
        return loop

    def _refuse_second_loop(self, batches: Batches) -> None:
        """What is left of an epoch may be gone on with, but nothing else be trained in it."""
        training, _ = self._parts()
        epoch, order = self._epoch, batches.order
        if self._taken is None or self._taken[0] != epoch:
            return
        again = self._taken == (epoch, id(batches.dataset), order)
        if not again or (training.position.epoch == epoch and training.position.within >= order.steps):
            raise InputError(
                f"batches was called a second time in epoch {epoch}",
                where="run.batches",
                fix="it is for training alone; to evaluate, use a DataLoader of your own",
            )

    def _batches(self, feed: Feed, order: SampleOrder, epoch: int) -> Generator[Any]:
        training, gang = self._parts()
        gathering = self._passes
        assert gathering is not None
        gathering.begin_epoch()
        if gang.parallel is not None and training.trained() != training.in_parallel_trained:
            gang.parallel = training.in_parallel()  # DDP exchanges what was to be trained when it was made
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
                    else:  # it has trained this step in part, or not at all
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
        """In place of ``loss.backward()``; ``loss`` is the mean over the local batch (scaled by a scaler, if any).

        After the last pass of a step every rank holds the gradient of the mean loss over the global batch. Where the
        loss is a mean over something else than samples, say over how many: with w tokens (those that count, padding
        left out) in a pass, and l their mean loss, all ranks end with the gradient of ``Σ w·l / Σ w``, summed over all
        ranks and passes of the step (`powerflow.elastic.training.token_mean`)::

            run.backward(loss, weight=(labels != -100).sum())

        Args:
            loss: One number.
            weight: How many tokens, pixels, … it is the mean of, ≥ 0; 0 for a batch that has none. None: one per
                sample. A tensor on a GPU is not waited for, so gradients of a mean over nothing must be finite there.

        Raises:
            InputError: If what the script does between passes would give another result than in one.
        """
        training, gang = self._parts()
        passes = self._passes
        if passes is None or passes.one is None:
            raise InputError("run.backward was called outside of batches", fix="call loss.backward() there")
        if not gang.whole:
            passes.backwards += 1
            return  # a peer was lost in forward: this step will be done again
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

        if lost := group.lost_in(go):
            passes.backwards += 1
            gang.lose(lost)
            return
        if together:
            gang.exchanged = training.position.step
        passes.after_backward()
        self._reporter.enter(Phase.OUTSIDE if passes.one.last else Phase.COMPUTING)

    # -- what Wrapped and the gates ask ------------------------------------------------------------------------------

    def forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The model's output."""
        trains = self._pass is not None and torch.is_grad_enabled()
        self._reporter.does(Phase.COMPUTING if trains else Phase.EVALUATING)
        return self._exchange.forward(self._gang, self._pass, module, args, kwargs)

    def _may_update(self) -> bool:
        if self._pass is not None and self._passes is not None:
            if not self._passes.backwards:
                raise InputError(
                    "optimizer.step() came without run.backward(loss)",
                    fix="call it before, in place of loss.backward(), and not in a closure",
                )
            self._passes.ask(granted=self.updates)
        return self.updates

    # -- inside ------------------------------------------------------------------------------------------------------

    @property
    def _pass(self) -> Pass | None:
        """The pass that the script is in."""
        return None if self._passes is None else self._passes.one

    def _place(self) -> RankPlace:
        """Where this rank is in its gang, or will be in its first one."""
        gang = self._gang
        if isinstance(gang, GangMember) and gang.generation and gang.target is not None:
            return place_in(gang.target, self._name) or RankPlace(gang.rank, gang.ranks, gang.rank)
        return first_place(self._mailbox, self._name)

    def _parts(self) -> tuple[Training, GangMember | Fixed]:
        if self._training is None or self._gang is None:
            raise InputError("run.wrap has not been called", fix="model = run.wrap(model, optimizer, …)")
        return self._training, self._gang

    def _explain(self, error: BaseException) -> InputError | None:
        """Take note of an error that ends the script, and return the refusal that it stands for, if any."""
        if isinstance(self._gang, GangMember):
            self._gang.fail()
        return None if self._passes is None else self._passes.explain(error)

    def _leave_batches(self) -> None:
        """End a loop over batches that the script has left, but keeps (in a progress bar, say)."""
        if self._open_batches is not None:
            _close(self._open_batches)

    def _leave_epochs(self) -> None:
        """The same of epochs, when the script has come to its end; not if an error ended it."""
        if self._open_epochs is not None and not hasattr(sys, "last_value"):
            _close(self._open_epochs)

    def _end_step(self, order: SampleOrder, passes: tuple[Pass, ...], began_s: float) -> None:
        training, gang = self._parts()
        if self._passes is not None:
            self._passes.end_step()
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

    def _idle(self) -> None:
        if self._pacer is not None:
            self._pacer.idle()


def _close(loop: weakref.ref[Generator[Any]]) -> None:
    if (alive := loop()) is not None:
        alive.close()
