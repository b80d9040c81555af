"""The ledger of a machine: every joule belongs to the rank that drew it, or to none, whatever is killed meanwhile."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.agent.ledger import AFTER_BOOT
from powerflow.device.protocol import DeviceError
from tests.agent.cards import NAN, Box, Card

ONE, TWO = "1.1.0", "2.1.0"


@pytest.fixture
def box(tmp_path: Path) -> Box:
    box = Box(tmp_path, Card("A"), Card("B", 1))
    box.ledger.read()
    box.ledger.save()
    return box


def test_a_rank_that_begins_and_ends_between_two_readings_by_hand(box: Box) -> None:
    box.draw(50.0, 0.2)
    box.ledger.began(ONE, ["A"])
    box.draw(300.0, 0.5)
    box.ledger.ended(ONE)
    box.draw(50.0, 0.3)
    box.ledger.read()
    # A: 10 J idle, 150 J of the rank, 15 J idle; B: 10 + 150 + 15 J idle, all of it
    found = box.by_rank()
    assert found[""] == pytest.approx((200.0, 1.5))
    assert found[ONE] == pytest.approx((150.0, 0.5))


def test_a_gpu_passes_from_rank_to_rank(box: Box) -> None:
    box.ledger.began(ONE, ["A", "B"])
    box.draw(100.0, 2.0)
    box.ledger.ended(ONE)
    box.ledger.began(TWO, ["B"])
    box.draw(200.0, 1.0)
    box.ledger.read()
    assert box.by_rank() == {"": (200.0, 1.0), ONE: (400.0, 4.0), TWO: (200.0, 1.0)}
    assert box.ledger.holders() == {"B": TWO}
    assert {(row.rank, row.final) for row in box.rows()} == {("", False), (ONE, True), (TWO, False)}


def test_only_the_gpus_of_the_rank_are_read_when_it_begins(box: Box) -> None:
    a, b = box.cards
    reads = a.reads, b.reads
    box.ledger.began(ONE, ["A"])
    box.ledger.ended(ONE)
    assert (a.reads, b.reads) == (reads[0] + 2, reads[1])


def test_to_begin_or_end_twice_changes_nothing(box: Box) -> None:
    for _ in range(2):
        box.ledger.began(ONE, ["A"])
    box.draw(100.0, 1.0)
    for _ in range(2):
        box.ledger.ended(ONE)
    assert box.by_rank()[ONE] == (100.0, 1.0)
    assert len(box.rows()) == 3


def test_a_gpu_that_the_machine_does_not_have_is_refused(box: Box) -> None:
    with pytest.raises(DeviceError, match="no GPU C"):
        box.ledger.began(ONE, ["A", "C"])
    assert box.ledger.ranks() == frozenset()


def test_two_ranks_on_one_gpu_the_newest_pays(box: Box) -> None:
    box.ledger.began(ONE, ["A"])
    box.draw(100.0, 1.0)
    box.ledger.began(TWO, ["A"])
    box.draw(100.0, 1.0)
    box.ledger.ended(TWO)
    box.draw(100.0, 1.0)
    box.ledger.ended(ONE)
    assert (box.by_rank()[ONE], box.by_rank()[TWO]) == ((200.0, 2.0), (100.0, 1.0))


def test_a_counter_that_is_reset_while_a_rank_runs_is_bridged_by_power(box: Box) -> None:
    box.ledger.began(ONE, ["A"])
    box.draw(250.0, 1.0)
    box.ledger.read()
    box.draw(250.0, 1.0)
    box.cards[0].energy_j = 30.0
    box.ledger.read()
    box.draw(250.0, 1.0)
    box.ledger.ended(ONE)
    assert box.by_rank()[ONE][0] == 750.0


def test_a_counter_that_wraps_while_a_rank_runs(box: Box) -> None:
    box.cards[0].energy_j = 2**32 / 1e3 - 100.0
    box.start()  # a new machine, as far as the counter goes
    box.path.unlink(missing_ok=True)
    box.start()
    box.draw(200.0, 0.0)
    box.ledger.read()
    box.ledger.began(ONE, ["A"])
    box.draw(200.0, 1.0)
    box.cards[0].energy_j -= 2**32 / 1e3
    box.ledger.ended(ONE)
    assert box.by_rank()[ONE][0] == pytest.approx(200.0, abs=2e-3)


def test_a_gpu_without_a_counter(box: Box) -> None:
    box.cards[0].energy_j = NAN
    box.cards[0].power_w = 100.0
    box.ledger.began(ONE, ["A"])
    box.draw(100.0, 2.0)
    box.ledger.ended(ONE)
    assert box.by_rank()[ONE][0] == 200.0


def test_a_gpu_that_does_not_answer_draws_for_the_rank_that_had_it_last(box: Box) -> None:
    box.ledger.began(ONE, ["A"])
    box.draw(100.0, 1.0)
    box.cards[0].lose()
    box.ledger.ended(ONE)
    (row,) = [row for row in box.rows() if row.rank == ONE]
    assert not row.final, "its last joules are still to come"
    box.ledger.began(TWO, ["A"])
    box.draw(100.0, 1.0)
    box.cards[0].error = None
    box.ledger.read()
    box.draw(100.0, 1.0)
    box.ledger.ended(TWO)
    # nobody knows what of the first 200 J came after the first rank had ended
    assert (box.by_rank()[ONE][0], box.by_rank()[TWO][0]) == (200.0, 100.0)
    assert box.by_rank()[TWO][1] == 2.0
    assert all(row.final for row in box.rows() if row.rank)


def test_a_gpu_that_somebody_else_uses_too_draws_for_nobody(box: Box) -> None:
    box.ledger.began(ONE, ["A"])
    box.draw(100.0, 1.0)
    box.ledger.read(lambda readings: {"A"})
    box.draw(100.0, 1.0)
    box.ledger.read(lambda readings: ())
    box.draw(100.0, 1.0)
    box.ledger.ended(ONE)
    assert box.by_rank()[ONE] == (200.0, 3.0)


def test_an_agent_that_is_killed_counts_on_from_what_it_stored(box: Box) -> None:
    box.ledger.began(ONE, ["A"])
    box.draw(100.0, 1.0)
    box.ledger.read()
    box.ledger.save()
    told = {row.number: row.energy_mj for row in box.rows()}
    box.draw(100.0, 1.0)
    box.ledger.read()  # counted, but killed before it was stored
    box.start()
    box.draw(100.0, 60.0)  # nobody runs
    box.start()
    assert box.ledger.ranks() == {ONE}
    box.ledger.ended(ONE)
    box.ledger.read()
    assert box.by_rank() == {"": (6200.0, 62.0), ONE: (6200.0, 62.0)}
    assert all(row.energy_mj >= told.get(row.number, 0) for row in box.rows())


def test_after_a_reboot_no_rank_is_charged_and_numbers_are_never_used_again(box: Box) -> None:
    box.ledger.began(ONE, ["A"])
    box.draw(100.0, 1.0)
    box.ledger.read()
    before, version = box.rows(), box.ledger.version
    number = box.ledger.id
    box.draw(100.0, 1.0)
    box.reboot()
    box.draw(90.0, 1.0)  # since the boot
    box.ledger.read()
    assert box.ledger.id == number
    assert box.ledger.ranks() == frozenset()
    assert box.by_rank() == {"": (100.0 + 2 * 90.0, 1.0 + 2.0), ONE: (100.0, 1.0)}
    box.ledger.began(TWO, ["A"])
    assert max(row.number for row in box.rows()) > max(row.number for row in before) + AFTER_BOOT - 1
    assert box.ledger.version > version + AFTER_BOOT
    assert [row.final for row in box.rows() if row.rank == ONE] == [True]


def test_a_row_goes_when_it_is_final_and_stored_elsewhere(box: Box) -> None:
    box.ledger.began(ONE, ["A"])
    box.draw(100.0, 1.0)
    box.ledger.read()
    box.rows()
    box.ledger.acknowledge(box.ledger.version)
    assert ONE in box.by_rank(), "more will come"
    early = box.ledger.version
    box.draw(100.0, 1.0)
    box.ledger.ended(ONE)
    box.ledger.acknowledge(early)
    assert ONE in box.by_rank(), "its last joules are not stored yet"
    box.ledger.acknowledge(box.ledger.version)
    assert ONE not in box.by_rank()
    box.start()
    assert ONE not in box.by_rank()
    assert box.ledger.acknowledged > early
    box.ledger.began(ONE, ["A"])  # it could not be started at first, and is started again
    assert [row.energy_mj for row in box.rows() if row.rank == ONE] == [0]


def test_a_row_is_dropped_on_disk_before_that_is_reported(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut must not bring back a row that the controller has forgotten. Other changes need not be durable."""
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", synced.append)
    box.ledger.began(ONE, ["A"])
    box.ledger.ended(ONE)
    box.rows()
    assert not synced
    box.ledger.acknowledge(box.ledger.version)
    assert box.ledger.stored().acknowledged == 0, "not written yet"
    box.rows()
    assert box.ledger.stored().acknowledged == box.ledger.version
    assert len(synced) == 2, "the file and its name"
    box.ledger.read()
    box.rows()
    assert len(synced) == 2


def test_a_damaged_file_begins_another_ledger(box: Box) -> None:
    box.rows()
    before = box.ledger.id
    box.path.write_bytes(b'{"format": 1, "id"')
    box.start()
    assert box.ledger.id != before


def test_what_cannot_be_written_is_not_reported(box: Box) -> None:
    box.rows()
    stored = box.ledger.stored()
    box.draw(100.0, 1.0)
    box.ledger.read()
    folder = box.path.parent
    box.path.unlink()
    box.path.mkdir()  # no file can take its place
    with pytest.raises(OSError, match="irectory"):
        box.ledger.save()
    assert box.ledger.stored() == stored
    box.path.rmdir()
    assert folder.is_dir()
    box.ledger.save()
    assert box.ledger.stored().version > stored.version


def test_a_process_that_was_stopped_for_long_does_not_write_over_its_successors_ledger(box: Box) -> None:
    before = box.ledger
    box.start()
    box.ledger.began(ONE, ["A"])
    version = box.rows()[0].version
    before.read()
    with pytest.raises(OSError, match="taken it over"):
        before.save()
    box.draw(100.0, 1.0)
    box.ledger.read()
    box.rows()
    box.start()
    assert box.ledger.ranks() == {ONE}
    assert box.ledger.version > version


_steps = st.lists(
    st.tuples(
        st.sampled_from(["began", "ended", "read", "save", "kill", "ack", "lose", "mend"]),
        st.integers(0, 3),  # the rank
        st.sampled_from([["A"], ["B"], ["A", "B"]]),
        st.floats(0, 700),
        st.floats(0, 3),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(_steps)
def test_the_ledger_is_what_the_counters_say_whatever_happens(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, list[str], float, float]]
) -> None:
    box = Box(tmp_path_factory.mktemp("box"), Card("A"), Card("B", 1))
    box.ledger.read()
    box.ledger.save()
    taken: dict[int, int] = {}  # what a controller has taken, as a controller takes it
    charged_mj = 0
    for what, rank, uuids, watts, seconds in steps:
        box.draw(watts, seconds)
        match what:
            case "began":
                box.ledger.began(f"{rank}.1.0", uuids)
            case "ended":
                box.ledger.ended(f"{rank}.1.0")
            case "read":
                box.ledger.read()
            case "kill":
                box.start()
            case "lose":
                box.cards[rank % 2].lose()
            case "mend":
                box.cards[rank % 2].error = None
        if what in ("save", "ack"):
            for row in box.rows():
                charged_mj += row.energy_mj - taken.get(row.number, 0)
                assert row.energy_mj >= taken.get(row.number, 0), "a total went back"
                taken[row.number] = row.energy_mj
        if what == "ack":
            box.ledger.acknowledge(box.ledger.version)
    for card in box.cards:
        card.error = None
    for rank in range(4):
        box.ledger.ended(f"{rank}.1.0")
    box.ledger.read()
    for row in box.rows():
        charged_mj += row.energy_mj - taken.get(row.number, 0)
    metered_mj = sum(card.drawn_j for card in box.cards) * 1e3
    assert abs(charged_mj - metered_mj) <= len(box.cards) * 0.5 + 1e-6  # each GPU's is a whole number
    assert all(row.final for row in box.rows() if row.rank)
    assert json.loads(box.path.read_text())["id"] == box.ledger.id
