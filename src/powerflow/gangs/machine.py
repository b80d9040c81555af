"""Define the states of a gang, and the table of its transitions: one table for all kinds of gangs.

A gang looks at its ranks and finds a `Trigger`. `TABLE` gives the next state and the `Action` to take. A trigger for
which the present state has no transition is a defect of PowerFlow. `docs/gangs.md` shows the table as a diagram.

The state itself is not saved, because it can be found again from the gang record (`GangState.ADOPTED`). So if a
controller is killed, the next controller continues in the same state.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class GangState(Enum):
    """The state of a gang between two transitions."""

    ADOPTED = "adopted"  # just read from its record, or about to run again; the next turn finds the state
    WAITING = "waiting"  # no rank runs; the GPUs for the job are not free yet
    FORMING = "forming"  # members start, or change to a new group; the last group may still train
    TRAINING = "training"  # all members train in one group; of a script: all its processes run
    SETTLING = "settling"  # a rank was lost; the other ranks get a moment to end too
    STOPPING = "stopping"  # all ranks were told to save and leave
    FINISHING = "finishing"  # all steps are trained; the ranks end by themselves
    KILLING = "killing"  # the user has asked to end the job
    FAILING = "failing"  # the job has failed; ranks that still run are ended
    IDLE = "idle"  # no rank runs, because the job shall have no GPU
    COMPLETED = "completed"  # no rank runs, and all work is done
    FAILED = "failed"  # no rank runs, and the controller knows of the failure


class Trigger(Enum):
    """Reasons for a transition: a request of the controller (the first three), or an observation of the ranks."""

    DESIRED = "a newer desired state"
    KILL = "kill"
    FAILURE = "the job has failed"
    KILLED = "the gang record says killed"
    NAMED = "the gang record names members"
    ALL_LEAVE = "all ranks shall leave"
    UNWANTED = "the job shall have no GPU"
    ROOM = "the GPUs for the job are free"
    WHOLE = "all members train (of a script: run)"
    BROKEN = "not all members train"
    MISPLACED = "the job has other GPUs than it shall have"
    LEFT = "ranks that were told to leave have ended"
    LATE = "new ranks come too late to train"
    LOST = "a rank ended unexpectedly"
    SETTLED = "the other ranks had time to end too"
    RECOVERED = "the lost rank is no longer needed"
    CUT = "the node of some ranks does not answer"
    STUCK = "the group could not be formed"
    TRAINED = "a rank has trained all steps"
    GONE = "no process runs"


class Action(Enum):
    """A change of the gang record, or an event for the controller.

    For each action, a gang has a method of the same name.
    """

    NAME = "name ranks for all GPUs of the job"
    REGROUP = "tell ranks to leave, name new ranks"
    MEND = "drop the lost ranks, form a new group"
    REFORM = "form a new group of the same members"
    CUT = "go on without the ranks that do not answer (a script: tell all ranks to leave)"
    DISMISS = "tell the new ranks to leave"
    DROP = "drop ranks that have left"
    FINISH = "note that all steps are trained"
    TELL_WHOLE = "tell Started, Rescaled"
    TELL_VACATED = "tell Vacated"
    TELL_COMPLETED = "tell GangCompleted"
    TELL_FAILED = "tell GangFailed"


class Transition(NamedTuple):
    """A transition of a gang: the next state, and the action to take on the way to it."""

    state: GangState
    action: Action | None = None


#: Nothing happens in these before the controller asks for something.
ENDED = frozenset({GangState.IDLE, GangState.COMPLETED, GangState.FAILED})
#: All processes are made to end in these.
ENDING = frozenset({GangState.KILLING, GangState.FAILING})
#: Ranks run, and shall train, in these.
ACTIVE = frozenset({GangState.FORMING, GangState.TRAINING, GangState.SETTLING})


def _table() -> dict[tuple[GangState, Trigger], Transition]:
    s, t, a = GangState, Trigger, Action
    table = {
        (s.ADOPTED, t.NAMED): Transition(s.FORMING),
        (s.ADOPTED, t.ALL_LEAVE): Transition(s.STOPPING),
        (s.ADOPTED, t.TRAINED): Transition(s.FINISHING),
        (s.ADOPTED, t.KILLED): Transition(s.KILLING),
        (s.WAITING, t.UNWANTED): Transition(s.IDLE, a.TELL_VACATED),
        (s.WAITING, t.ROOM): Transition(s.FORMING, a.NAME),
        (s.FORMING, t.WHOLE): Transition(s.TRAINING, a.TELL_WHOLE),
        (s.FORMING, t.STUCK): Transition(s.FORMING, a.REFORM),
        (s.TRAINING, t.BROKEN): Transition(s.FORMING),
        (s.SETTLING, t.SETTLED): Transition(s.FORMING, a.MEND),
        (s.SETTLING, t.RECOVERED): Transition(s.FORMING),
        (s.STOPPING, t.TRAINED): Transition(s.FINISHING, a.FINISH),
        (s.STOPPING, t.GONE): Transition(s.WAITING, a.DROP),
        (s.STOPPING, t.CUT): Transition(s.STOPPING, a.CUT),
        (s.FINISHING, t.GONE): Transition(s.COMPLETED, a.TELL_COMPLETED),
        (s.KILLING, t.GONE): Transition(s.IDLE, a.TELL_VACATED),
        (s.FAILING, t.GONE): Transition(s.FAILED, a.TELL_FAILED),
    }
    for state in (s.FORMING, s.TRAINING, s.SETTLING):
        table |= {
            (state, t.ALL_LEAVE): Transition(s.STOPPING),
            (state, t.LEFT): Transition(state, a.DROP),
            (state, t.LATE): Transition(state, a.DISMISS),
            (state, t.TRAINED): Transition(s.FINISHING, a.FINISH),
        }
    for state in (s.FORMING, s.TRAINING):
        table |= {
            (state, t.LOST): Transition(s.SETTLING),
            (state, t.MISPLACED): Transition(s.FORMING, a.REGROUP),
            (state, t.CUT): Transition(s.FORMING, a.CUT),
        }
    for state in s:
        table |= {
            (state, t.DESIRED): Transition(s.ADOPTED if state in ENDED | ENDING else state),
            (state, t.KILL): Transition(s.KILLING),
            (state, t.FAILURE): Transition(s.FAILING),
        }
    return table | {
        (s.TRAINING, t.DESIRED): Transition(s.FORMING),  # it may already train on the right GPUs: report that again
        (s.ADOPTED, t.KILL): Transition(s.ADOPTED),  # its record may say that it has failed
        (s.FAILING, t.KILL): Transition(s.FAILING),  # what has failed stays failed
        (s.FAILED, t.KILL): Transition(s.FAILING),
    }


#: The transitions of a gang.
TABLE = _table()
