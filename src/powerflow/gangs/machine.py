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

    ADOPTED = "adopted"  # its record was read, or it shall run again; the next turn finds its state
    WAITING = "waiting"  # nothing runs; its GPUs are not free yet
    FORMING = "forming"  # its members start, or go over to a new group; those of the last group may train on
    TRAINING = "training"  # all members train in one group; of a script: all its processes run
    SETTLING = "settling"  # a rank was lost; its peers have a moment to end too
    STOPPING = "stopping"  # all ranks were told to save and leave
    FINISHING = "finishing"  # all steps are trained; the ranks end by themselves
    KILLING = "killing"  # ended as its user asked
    FAILING = "failing"  # has failed; what still runs is ended
    IDLE = "idle"  # nothing runs, as it was asked
    COMPLETED = "completed"  # nothing runs, and nothing is left to do
    FAILED = "failed"  # nothing runs, and the failure was told


class Trigger(Enum):
    """Reasons for a transition: a request of the controller (the first three), or an observation of the ranks."""

    DESIRED = "a newer desired state"
    KILL = "kill"
    FAILURE = "it has failed"
    KILLED = "its record says killed"
    NAMED = "its record names members"
    ALL_LEAVE = "no rank shall stay"
    UNWANTED = "it shall have no GPU"
    ROOM = "its GPUs are free"
    WHOLE = "all members train, or run"
    BROKEN = "not all members train"
    MISPLACED = "its GPUs are not those it shall have"
    LEFT = "ranks that were told to leave have ended"
    LATE = "newcomers come too late to train"
    LOST = "a rank ended unexpectedly"
    SETTLED = "its peers had their time"
    RECOVERED = "the lost rank is not needed"
    STUCK = "the group could not be formed"
    TRAINED = "a rank has trained all there is"
    GONE = "no process runs"


class Action(Enum):
    """A change of the gang record, or an event for the controller.

    Each action is a method of the gang with the same name.
    """

    NAME = "name ranks for all its GPUs"
    REGROUP = "tell ranks to leave, name new ones"
    MEND = "drop the lost ranks, form a new group"
    REFORM = "form a new group of the same members"
    DISMISS = "tell the newcomers to leave"
    DROP = "drop ranks that have left"
    FINISH = "note that all is trained"
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
