"""Let a rank take part in its gang: join new generations, lead the gang to a new generation, and leave.

A generation is one group of ranks that train together. `powerflow.elastic.mailbox` describes the messages between ranks
and controller.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

from torch._C._distributed_c10d import Store
from torch.nn.parallel import DistributedDataParallel

from powerflow.elastic import foreign, group
from powerflow.elastic.announcement import Announcements
from powerflow.elastic.checkpoint import CheckpointWriter
from powerflow.elastic.checksum import RankComparison
from powerflow.elastic.handover import share
from powerflow.elastic.mailbox import FileWatch, Mailbox, Phase, Switch, Target
from powerflow.elastic.peers import Peers
from powerflow.elastic.reporter import Reporter
from powerflow.elastic.state import Training

#: Shortest time that forming a group may take before a newer target stops it.
REGROUP_S = 1.0
#: Shortest time between two readings of the reports of other ranks.
LOOK_S = 0.02


class GangMember:
    """The membership of this rank in its gang.

    Attributes:
        generation: Number of the current generation; 0 before the first.
        rank, ranks: Number of this rank in the current generation, and how many ranks the generation has.
        target: The target (message of the controller) from which the current generation was formed.
        parallel: The model wrapped by DDP for the current group; None if there is only one rank.
        whole: True if the group is complete; False from the loss of a rank until a new group is formed.
        step_ended_s: Time at which the last step ended, as `time.monotonic` counts.
        exchanged: Number of the last step in which this rank has exchanged gradients.
    """

    def __init__(
        self, mailbox: Mailbox, name: str, training: Training, reporter: Reporter, idle: Callable[[], None]
    ) -> None:
        self.mailbox = mailbox
        self.name = name
        self.training = training
        self.reporter = reporter
        self.idle = idle
        self.generation = 0
        self.rank, self.ranks = 0, 1
        self.target: Target | None = None
        self.parallel: DistributedDataParallel | None = None
        self.whole = False
        self.step_ended_s = time.monotonic()
        self.exchanged = -1
        self._peers = Peers(mailbox)
        self._comparison = RankComparison(training)
        self._store: Store | None = None
        self._listed = False  # whether this rank has been a member of some target
        self._tried = 0  # newest generation that this rank has tried to join
        self._next: Target | None = None
        self._announcements = Announcements(0)
        self._rendezvous = group.Rendezvous(mailbox)
        self._wanted: Target | None = None
        self._done = False
        self._left = self._stopped = False
        self._told_to_leave = False
        self._news_of_switch = FileWatch(mailbox.directory / "switch.json")
        self._news_of_target = FileWatch(mailbox.directory / "target.json")
        self._looked_s = 0.0
        self._checkpoint = CheckpointWriter(training, mailbox.checkpoint, reporter)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._on_sigterm)

    @property
    def local_batch_max(self) -> int:
        """Most samples of one pass on one GPU; 0 for no limit."""
        return 0 if self.target is None else self.target.local_batch_max

    @property
    def nodes(self) -> int:
        """Number of nodes on which the gang runs."""
        return 1 if self.target is None else self.target.nodes

    def _on_sigterm(self, _number: int, _frame: Any) -> None:
        self._told_to_leave = True

    def fail(self) -> None:
        """Report that training is not complete, because an error has ended the script."""
        if self._stopped:
            self.reporter.tell(Phase.COMPUTING, steps_total=None)

    # -- between two steps -------------------------------------------------------------------------------------------

    def between_steps(self) -> bool:
        """Do what must be done before a step, such as joining a new generation or saving a checkpoint.

        Returns:
            True if the group of ranks has changed.
        """
        if self._told_to_leave:
            self._leave(None)
        if not self.whole:
            self._await_generation()
            return True
        if self.ranks > 1 and not self._stays_whole(group.lost_in(self._receive)):
            self._await_generation()
            return True
        if self._next is not None:
            if not self._go_over(self._next):
                self._await_generation()
            return True
        if self.ranks > 1 and self.training.position.step >= self._comparison.due and not self._compare():
            self._await_generation()
            return True
        if self.ranks == 1:
            if (wanted := self._lead()) is not None:
                self._next = wanted
                return self.between_steps()
        elif self._announcements.is_due(self.training.position.step) and not self._announce():
            self._await_generation()
            return True
        if self.rank == 0 and not self._comparison.is_open:
            self._save_if_due()
        return False

    def _stays_whole(self, lost: str) -> bool:
        """Leave the group if a rank was lost, and return False; otherwise return True."""
        if lost:
            self.lose(lost)
        return not lost

    def _receive(self) -> None:
        if not self._announcements.has_arrived:
            self.reporter.enter(Phase.SYNCING)
        target = self._announcements.receive(self.rank)
        if target is not None and self.target is not None:
            self._rendezvous.share(target, self.target, self.name)
        self._next = target
        if self._comparison.may_finish:
            self._comparison.finish()

    def _announce(self) -> bool:
        """Begin the next message of rank 0; return False if a rank was lost in the meantime."""
        wanted = self._lead() if self.rank == 0 else None
        step = self.training.position.step
        return self._stays_whole(group.lost_before(lambda: self._announcements.send(step, self.rank, wanted)))

    def _compare(self) -> bool:
        """Compare the parameters of all ranks; return False if a rank was lost in the meantime."""
        self.reporter.enter(Phase.SYNCING)
        whole = self._stays_whole(group.lost_before(lambda: self._comparison.compare(self.rank, self.ranks)))
        if whole:
            self.reporter.enter(Phase.COMPUTING)
        return whole

    def _lead(self) -> Target | None:
        """Return the generation that shall begin after this step; None if none shall, or its new ranks are not ready.

        It is the newest target that the controller has posted. Ranks outside of the group learn of it here.
        """
        if self._news_of_target.come():
            self._wanted = self.mailbox.target()
        wanted = self._wanted
        if wanted is None or wanted.generation <= self._tried:
            return None
        now = time.monotonic()
        if self.ranks == 1 and now - self._looked_s < LOOK_S:  # with more ranks, messages are rare enough
            return None
        self._looked_s = now
        assert self.target is not None
        newcomers = [m.name for m in wanted.members if m not in self.target.members]
        if not self._peers.all_wait(newcomers):
            return None
        with contextlib.suppress(OSError):  # the disk is full: try again later
            if newcomers and wanted.members[0].name == self.name and not self._all_arrived(wanted, len(newcomers)):
                return None
            self.mailbox.post_switch(Switch(wanted, self.training.position.step + (self.ranks > 1)))
            return wanted
        return None

    def _all_arrived(self, wanted: Target, newcomers: int) -> bool:
        """Let new ranks come to the meeting of the next generation while this one still trains.

        So this generation does not wait until a file has come to them from another node, and one from them.
        """
        if not self._rendezvous.is_open(wanted.generation):
            self._rendezvous.open(wanted.generation)
            self.mailbox.post_switch(Switch(wanted, self.training.position.step + 1))
        return self._rendezvous.open(wanted.generation).arrived() >= newcomers

    def _save_if_due(self) -> None:
        assert self.target is not None
        if self._checkpoint.due(self.target.checkpoint_s):
            self.reporter.tell(Phase.SAVING)
            self._checkpoint.save()
            self.reporter.enter(Phase.COMPUTING)

    # -- outside a whole group ---------------------------------------------------------------------------------------

    def lose(self, note: str) -> None:
        """Leave the process group because a rank was lost, so that all other ranks notice the loss.

        What the script still does in this step has no effect. Its own collectives find a group of this rank alone.
        """
        self._let_go()
        group.stand_alone(cuda=self.training.on_cuda())
        self.idle()
        self.reporter.tell(Phase.BROKEN if self.training.joined else Phase.READY, note=note.splitlines()[0][:300])

    def join(self) -> None:
        """Join the gang. Call this after model and data are built."""
        foreign.refuse_own_group()
        group.warm_up()
        self.idle()
        self.reporter.tell(Phase.READY)
        self._await_generation()

    def _await_generation(self) -> None:
        """Wait until this rank is a member of a complete process group."""
        while True:
            target = self._hear()
            if target is not None and self._go_over(target):
                return
            time.sleep(0.003)

    def _hear(self) -> Target | None:
        """Return the generation to which this rank must change; None if there is none yet.

        The rank is in no complete group. If it is this rank's turn to lead, it posts a switch. If it was told to leave,
        it leaves.
        """
        if self._told_to_leave or self._comes_too_late():
            self._leave(None)
        if self._news_of_switch.come() and (switch := self.mailbox.switch()) is not None:
            self._next = switch.target
        if self._next is not None and self._concerns_us(self._next):
            return self._next
        if self._news_of_target.come():
            self._wanted = self.mailbox.target()
        wanted = self._wanted
        if wanted is None or not self._concerns_us(wanted) or time.monotonic() - self._looked_s < LOOK_S:
            return None
        self._looked_s = time.monotonic()
        names = [member.name for member in wanted.members]
        if self.name not in names:
            if not self._done:
                self._leave(wanted)
            return None
        if names[0] == self.name and self._peers.all_wait(names) and not self._peers.others_train(wanted):
            with contextlib.suppress(OSError):
                self.mailbox.post_switch(Switch(wanted, 0))
        return None

    def _concerns_us(self, target: Target) -> bool:
        """Return True if this rank must react to a target.

        It must if the target is newer than the last target that this rank tried, and was not posted before this rank
        started.
        """
        if not self._listed and self.name in [member.name for member in target.members]:
            self._listed, self._tried = True, target.generation - 1
        return self._listed and target.generation > self._tried

    def _comes_too_late(self, going_to: Target | None = None) -> bool:
        """Return True if this rank is new, and the other ranks have trained all training epochs without it."""
        return not self.training.joined and self._peers.all_done(self._wanted if going_to is None else going_to)

    # -- going over --------------------------------------------------------------------------------------------------

    def _go_over(self, target: Target) -> bool:
        """Join a new generation and get the state of the run; return False if this failed."""
        names = [member.name for member in target.members]
        self._tried = target.generation
        self._next = None
        if self.name not in names:
            self._leave(target)
        self.idle()
        if self.training.joined or names[0] == self.name:  # for a new rank, others may still train for a while
            self.reporter.tell_soon(Phase.REGROUPING)
        try:
            self._regroup(target, names.index(self.name))
        except group.GaveUp:
            self.lose("not all members of the new group arrived")
        except Exception as error:
            if not isinstance(error, RuntimeError) or not group.lost_peer(error):
                self._let_go()  # otherwise threads of gloo would abort the process at its end
                raise
            self.lose(str(error))
        return self.whole

    def _regroup(self, target: Target, rank: int) -> None:
        began_s = time.monotonic()
        if not self.training.joined:
            self.step_ended_s = began_s  # the time in which a new rank builds its model is no pause

        def give_up() -> bool:
            return self._should_give_up(target, rank, began_s)

        if rank == 0 and not self.training.joined:
            for _ in group.until(give_up):
                if not self._peers.others_train(target):
                    break
            self._checkpoint.resume(target.generation)
        store = group.meet(self._rendezvous, target, rank, give_up)
        if not self.training.joined:
            self.reporter.tell_soon(Phase.REGROUPING)
        self._let_go()
        self._store = store
        group.form(store, rank, len(target.members), cuda=self.training.on_cuda())
        state = share(self.training, rank, len(target.members))
        group.settle(target.outside_s)
        if state is not None:
            self.training.become(state)
        self.training.joined = True
        if rank == 0:
            self._checkpoint.take_over(target.generation)
        if rank == 0 and (self.rank != 0 or not self.generation):
            self._checkpoint.lead()
        self.training.draw_own_numbers(rank)
        self._comparison.begin(rank, len(target.members), formed=True)
        self.generation, self.rank, self.ranks, self.target = target.generation, rank, len(target.members), target
        self._checkpoint.generation = target.generation
        self.parallel = self.training.in_parallel() if self.ranks > 1 else None
        self._announcements = Announcements(self.training.position.step)
        self.whole = True
        at, pause_s = self.training.position, time.monotonic() - self.step_ended_s
        trained = {"step": at.step, "epoch": at.epoch, "samples": at.samples, "timed_steps": 0, "timed_s": 0.0}
        self.reporter.tell_soon(Phase.COMPUTING, generation=self.generation, pause_s=pause_s, note="", **trained)

    def _should_give_up(self, target: Target, rank: int, began_s: float) -> bool:
        if self._told_to_leave or (self._done and self._all_done()) or self._comes_too_late(target):
            return True
        switch = self.mailbox.switch()
        if switch is not None and switch.target.generation > target.generation:
            return True
        if rank == 0 and (switch is None or switch.target.generation < target.generation):
            self.mailbox.post_switch(Switch(target, 0))  # the leader of an older target has overwritten it
        wanted = self.mailbox.target()
        return wanted is not None and wanted.generation > target.generation and time.monotonic() - began_s > REGROUP_S

    def _let_go(self) -> None:
        self.whole = False
        self.parallel = None
        self._comparison.forget()
        group.close()
        self._store = None

    # -- the end -----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Report that training is complete, because the script has left its loop over training epochs."""
        if self._left:
            return
        self._done = self._stopped = True
        step = self.training.position.step
        self.reporter.tell(Phase.DONE, step=step, samples=self.training.position.samples, steps_total=step)

    def finish(self) -> None:
        """Wait until all ranks have trained all training epochs.

        If a rank is lost before that, join a new generation.
        """
        if self.whole and self.ranks > 1 and (self._comparison.has_news or self._comparison.is_open):
            self._compare()
        self._done = True
        began_s = time.monotonic()
        self.reporter.tell(Phase.DONE)
        while not self._all_done():
            time.sleep(0.003)
            if time.monotonic() - began_s < REGROUP_S:
                continue
            target = self._hear()
            if target is not None and self.name in [member.name for member in target.members]:
                self._go_over(target)
                self.reporter.tell(Phase.DONE)
        self.reporter.tell(Phase.DONE)

    def _all_done(self) -> bool:
        return self._peers.all_done(self.target, formed=True)

    def _leave(self, target: Target | None) -> NoReturn:
        """End this process, because the rank was told to leave.

        If no rank of the target has the state of the run, save it first.
        """
        kept = target is not None and self._peers.have_state(target, self.target)
        if self.training.joined and not kept and (self.rank == 0 or not self.whole):
            self._checkpoint.save_last()
        self._let_go()
        group.stand_alone(cuda=False)  # for a script that destroys its group however it ends
        self._checkpoint.wait()
        self._left = True
        self.reporter.tell(Phase.RELEASED)
        self.reporter.close()
        raise SystemExit(0)
