"""No state of an earlier generation takes the place of a later one's."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from powerflow.elastic.fence import VISIBLE_S, Overtaken, SharedFolderWatch, fence_file, raise_fence
from powerflow.elastic.mailbox import Mailbox, Member, Target
from powerflow.elastic.state import Training, load
from powerflow.elastic.training.sampling import Position
from tests.elastic.test_checkpoint import training, writer

__all__ = ["training"]


def test_a_state_of_an_earlier_generation_is_refused(training: Training, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    training.save(path, 4)
    raise_fence(path, 6)
    raise_fence(path, 5)
    training.position = Position(9, 0, 9, 72)
    with pytest.raises(Overtaken, match="generation 6 has taken over from generation 5"):
        training.save(path, 5)
    kept = load(path)
    assert kept is not None
    assert kept["position"][0] == 3
    training.save(path, 6)
    kept = load(path)
    assert kept is not None
    assert kept["position"][0] == 9


def test_a_state_is_refused_that_was_overtaken_while_it_was_written(training: Training, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"

    def write(file: object) -> None:
        raise_fence(path, 8)  # on another node, whose locks we may not see

    with pytest.raises(Overtaken):
        training.keep(path, 3, 7, write)
    assert [entry.name for entry in tmp_path.iterdir() if entry.suffix == ".pt"] == []


def test_an_overtaken_rank_leaves_without_saving(training: Training, tmp_path: Path) -> None:
    keeper, reporter = writer(training, tmp_path / "checkpoint.pt")
    keeper.generation = 2
    raise_fence(tmp_path / "checkpoint.pt", 3)
    keeper.save_last()  # returns
    keeper.save()
    keeper.wait()
    assert "generation 3 has taken over" in reporter._facts["note"]
    assert "saved_step" not in reporter._facts
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_fence_that_was_damaged_is_raised_again(training: Training, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    fence_file(path).write_text("{")
    training.save(path, 2)
    with pytest.raises(Overtaken):
        training.save(path, 1)


@pytest.mark.parametrize(("node", "seen", "said"), [("b", 3, False), ("b", 2, True), ("a", 2, False)])
def test_a_folder_that_is_not_shared_is_said_once(
    node: str, seen: int, said: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    now_s = 10.0
    mailbox = Mailbox(tmp_path / "job", tmp_path / "ck" / "checkpoint.pt")
    (tmp_path / "ck").mkdir()
    raise_fence(mailbox.checkpoint, seen)
    target = Target(3, (Member("j.1.0", "a"), Member("j.1.1", node)), 0, nodes=2)
    gang = SimpleNamespace(mailbox=mailbox, whole=True, target=target, name="j.1.1")
    watch = SharedFolderWatch(gang, lambda: now_s)  # type: ignore[arg-type]
    watch.look()
    now_s += VISIBLE_S - 1.0
    watch.look()
    assert capfd.readouterr().err == ""  # a file server may take its time
    now_s += 2.0
    watch.look()
    watch.look()
    line = f"powerflow: checkpoint.dir {tmp_path}/ck: b and a do not share this folder"
    assert capfd.readouterr().err.count(line) == int(said)
