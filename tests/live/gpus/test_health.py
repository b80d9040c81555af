"""Which GPUs are in service, by what is seen of them."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from powerflow.device.deadline import NotAnswering
from powerflow.device.protocol import DeviceError, DeviceLost, Reading
from powerflow.live.gpus.health import (
    BACK_S,
    ECHO_S,
    FOREIGN_S,
    FREE_S,
    HELD_S,
    GpuHealth,
    Sight,
    Turn,
    faults_as_json,
    faults_from_json,
)

G0, G1 = ("n0", 0), ("n0", 1)
LOST, STUCK = DeviceLost("GPU is lost"), NotAnswering("its driver does not answer")


def well(*, used: float = 0.0, ecc: float = math.nan, xids: tuple[int, ...] = ()) -> Reading:
    return Reading(0.0, 60.0, 0.0, 1410.0, None, used, ecc_errors=ecc, xids=xids)


def health() -> GpuHealth:
    return GpuHealth([G0, G1])


def test_a_lost_gpu_leaves_at_once_and_comes_back_when_it_has_answered_for_a_while() -> None:
    gpus = health()
    seen = {G0: Sight(well()), G1: Sight(None, LOST, held=True)}
    assert gpus.look(0.0, seen) == [Turn(G1, True, "GPU is lost")]
    assert gpus.look(1.0, seen) == []
    assert gpus.out() == {G1: "GPU is lost"}
    seen[G1] = Sight(well())
    assert gpus.look(2.0, seen) == []
    assert gpus.look(2.0 + BACK_S - 0.1, seen) == []
    assert gpus.look(2.0 + BACK_S, seen) == [Turn(G1, False, "GPU is lost")]
    assert gpus.out() == {}


def test_one_that_comes_and_goes_stays_out_for_longer_each_time() -> None:
    gpus, now_s, waits = health(), 0.0, []
    for _ in range(3):
        gpus.look(now_s, {G0: Sight(None, LOST)})
        began_s = now_s = now_s + 1.0
        while not gpus.look(now_s, {G0: Sight(well())}):
            now_s += 1.0
        waits.append(now_s - began_s)
    assert waits == [BACK_S, 2 * BACK_S, 4 * BACK_S]


def test_a_stuck_gpu_that_a_job_is_on_gets_more_patience_than_a_free_one() -> None:
    gpus = health()
    assert gpus.look(0.0, {G0: Sight(None, STUCK), G1: Sight(None, STUCK, held=True)}) == []
    (turn,) = gpus.look(FREE_S, {G0: Sight(None, STUCK), G1: Sight(None, STUCK, held=True)})
    assert turn.place == G0
    assert gpus.look(HELD_S - 0.1, {G1: Sight(None, STUCK, held=True)}) == []
    (turn,) = gpus.look(HELD_S, {G1: Sight(None, STUCK, held=True)})
    assert turn == Turn(G1, True, "its driver does not answer")


def test_a_short_stall_is_forgotten() -> None:
    gpus = health()
    for now_s in range(0, 100, 2):
        assert gpus.look(now_s, {G0: Sight(None, DeviceError("Unknown Error"))}) == []
        assert gpus.look(now_s + 1.0, {G0: Sight(well())}) == []


def test_a_job_that_fails_on_a_silent_gpu_ends_the_patience() -> None:
    gpus = health()
    gpus.look(0.0, {G0: Sight(None, STUCK, held=True)})
    assert gpus.suspect(G0, "silent") == [Turn(G0, True, "silent")]
    assert gpus.suspect(G0, "silent") == []


def test_xids_of_programs_are_theirs_and_others_take_a_gpu_out_until_it_is_pardoned() -> None:
    gpus = health()
    gpus.look(0.0, {G0: Sight(well(xids=(31,)))})
    assert gpus.look(1.0, {G0: Sight(well(xids=(31, 13, 43)), held=True)}) == []
    (turn,) = gpus.look(2.0, {G0: Sight(well(xids=(31, 13, 43, 79)), held=True)})
    assert turn == Turn(G0, True, "its driver reported Xid 79")
    assert gpus.look(1e6, {G0: Sight(well(xids=(31, 13, 43, 79)))}) == []  # time does not heal it
    gpus.pardon("n1")
    assert gpus.look(1e6 + 1, {G0: Sight(well(xids=(31, 13, 43, 79)))}) == []
    gpus.pardon("n0")
    (turn,) = gpus.look(1e6 + 2, {G0: Sight(well(xids=(31, 13, 43, 79)))})
    assert turn.out is False
    assert gpus.look(1e6 + 3, {G0: Sight(well(xids=(31, 13, 43, 79)))}) == []


def test_ecc_errors_count_from_when_we_first_looked_and_a_reset_heals_them() -> None:
    gpus = health()
    assert gpus.look(0.0, {G0: Sight(well(ecc=5))}) == []
    (turn,) = gpus.look(1.0, {G0: Sight(well(ecc=7), held=True)})
    assert turn == Turn(G0, True, "2 memory errors (ECC) that could not be corrected")
    assert gpus.look(1000.0, {G0: Sight(well(ecc=7))}) == []
    assert gpus.look(1001.0, {G0: Sight(well(ecc=0))}) == []
    (turn,) = gpus.look(1001.0 + BACK_S, {G0: Sight(well(ecc=0))})
    assert turn.out is False


def test_a_fault_outlives_the_controller_that_saw_it() -> None:
    gpus = health()
    gpus.look(0.0, {G0: Sight(well(ecc=1))})
    gpus.look(1.0, {G0: Sight(well(ecc=2))})
    kept = faults_as_json(gpus.faults(), {G0: "GPU-a", G1: "GPU-b"})
    later = health()
    later.restore(faults_from_json(kept | {"GPU-gone": kept["GPU-a"]}, {"GPU-a": G0, "GPU-b": G1}))
    (turn,) = later.look(0.0, {G0: Sight(well(ecc=2)), G1: Sight(well())})
    assert (turn.place, turn.out) == (G0, True)


def test_somebody_else_on_a_free_gpu_takes_it_out_and_beside_a_job_is_only_said() -> None:
    gpus, who = health(), ("python (process 7 of eve)",)
    assert gpus.look(0.0, {G0: Sight(well(), strangers=who), G1: Sight(well(), held=True, strangers=who)}) == []
    (turn,) = gpus.look(FOREIGN_S, {G0: Sight(well(), strangers=who), G1: Sight(well(), held=True, strangers=who)})
    assert turn == Turn(G0, True, "used by python (process 7 of eve), which PowerFlow did not start")
    assert gpus.shared() == {G1: who}
    gpus.look(FOREIGN_S + 1, {G0: Sight(well()), G1: Sight(well(), held=True)})
    assert gpus.shared() == {}
    assert gpus.look(FOREIGN_S + 1 + BACK_S, {G0: Sight(well())})[0].out is False


def test_others_that_come_and_go_do_not_keep_a_gpu_out_for_longer_each_time() -> None:
    gpus, now_s = health(), 0.0
    for _ in range(5):
        while not gpus.look(now_s, {G0: Sight(well(), strangers=("x (process 1)",))}):
            now_s += 1.0
        began_s = now_s = now_s + 1.0
        while not gpus.look(now_s, {G0: Sight(well())}):
            now_s += 1.0
        assert now_s - began_s == BACK_S


def test_a_desktop_that_draws_now_and_then_is_nobodys_work() -> None:
    gpus = health()
    assert not any(gpus.look(now_s, {G0: Sight(well(used=0.2))}) for now_s in range(100))


def test_a_busy_gpu_that_no_job_is_on_is_somebody_elses_but_not_the_echo_of_a_job() -> None:
    gpus = health()
    busy = Sight(well(used=0.99))
    gpus.look(0.0, {G0: Sight(well(used=0.99), held=True), G1: busy})
    assert [turn.place for turn in gpus.look(FOREIGN_S, {G0: busy, G1: busy})] == [G1]
    assert gpus.look(FOREIGN_S + ECHO_S - 0.1, {G0: busy}) == []
    gpus.look(FOREIGN_S + ECHO_S, {G0: busy})
    assert [turn.place for turn in gpus.look(2 * FOREIGN_S + ECHO_S, {G0: busy})] == [G0]


SIGHTS = st.builds(
    Sight,
    st.one_of(
        st.none(), st.builds(well, used=st.sampled_from([0.0, 0.9]), ecc=st.sampled_from([math.nan, 0.0, 1.0, 2.0]))
    ),
    st.sampled_from([None, LOST, STUCK]),
    st.booleans(),
    st.sampled_from([(), ("x (process 1)",)]),
)


@given(st.lists(st.tuples(st.floats(0.0, 30.0), st.sampled_from([G0, G1]), SIGHTS, st.booleans()), max_size=60))
def test_whatever_is_seen_turns_alternate_and_out_is_what_they_say(
    course: list[tuple[float, tuple[str, int], Sight, bool]],
) -> None:
    gpus, now_s = health(), 0.0
    out: set[tuple[str, int]] = set()
    for after_s, place, sight, pardoned in course:
        now_s += after_s
        if pardoned:
            gpus.pardon("n0")
        for turn in gpus.look(now_s, {place: sight}):
            assert turn.out is (turn.place not in out)
            assert turn.why
            out ^= {turn.place}
        assert gpus.out().keys() == out
