"""What the checker says of scripts: exactly the lines that a comment `# <- rule` marks."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from powerflow.cli.main import main
from powerflow.elastic.check import never_joins
from powerflow.elastic.check.report import check
from powerflow.errors import InputError
from tests.elastic.checked_scripts import CASES, script

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "elastic"


def expected(text: str) -> list[tuple[int, str]]:
    found = [(n, rule) for n, line in enumerate(text.splitlines(), 1) for rule in re.findall(r"# <- ([\w-]+)", line)]
    return sorted(found)


def found(path: Path) -> list[tuple[int, str]]:
    return sorted((one.line, one.rule) for one in check(path).findings)


def check_script(tmp_path: Path, text: str) -> None:
    ast.parse(text)
    path = tmp_path / "train.py"
    path.write_text(text)
    assert found(path) == expected(text), text


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_what_is_found(tmp_path: Path, case: dict[str, str]) -> None:
    check_script(tmp_path, script(**case))


def test_nothing_is_found_in_an_elastic_script(tmp_path: Path) -> None:
    check_script(tmp_path, script())
    assert found(EXAMPLES / "train.py") == found(EXAMPLES / "classify.py") == []


def test_a_resume_without_its_epoch(tmp_path: Path) -> None:
    text = script(start='optimizer.load_state_dict(torch.load("last.pt")["optimizer"])')
    check_script(tmp_path, text.replace("in run.epochs(3):", "in run.epochs(3):  # <- resume"))
    check_script(tmp_path, text.replace("in run.epochs(3):", "in run.epochs(3, start=2):"))


def test_objects_that_are_given_in_another_form(tmp_path: Path) -> None:
    text = script(
        before="critic = nn.Linear(2, 1)\n"
        "critic_optimizer = torch.optim.SGD(critic.parameters())\n"
        "warm = torch.optim.lr_scheduler.LinearLR(optimizer)\n"
        "schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm], [])\n"
        "both = nn.ModuleDict({'model': model, 'critic': critic})"
    ).replace("run.wrap(model, optimizer)", "run.wrap(both, optimizer, critic_optimizer, schedule)")
    check_script(tmp_path, text)


#: As scripts for language models are written: no epochs, and batches by a function.
STEPS = """\
import torch  # <- never-joins
best = 9.0  # <- plain-value
model = make()
optimizer = torch.optim.AdamW(model.parameters())
i = 0  # <- plain-value
while True:  # <- epochs # <- batches
    for micro in range(4):  # <- accumulation
        x, y = get_batch()
        loss = model(x, y) / 4
        loss.backward()  # <- backward
    optimizer.step()
    optimizer.zero_grad()
    i += 1
    if loss < best:
        best = loss
    if i > 100:
        break
"""


def test_a_loop_over_steps(tmp_path: Path) -> None:
    check_script(tmp_path, STEPS)


OTHER_NAMES = """\
from powerflow import elastic

class Trainer:
    def __init__(self, model, optimizer):
        self.optimizer = optimizer
        self.elastic_run = begin()
        self.model = self.elastic_run.wrap(model, optimizer)

    def fit(self, dataset):
        for epoch in self.elastic_run.epochs(3):
            train(self.elastic_run, self.model, self.optimizer, loader(self.elastic_run, dataset))

def begin():
    return elastic.init()

def loader(r, dataset):
    return r.batches(dataset, global_batch=8)

def train(r, model, optimizer, loader):
    for x in loader:
        r.backward(model(x).mean())
        optimizer.step()

trainer = Trainer(make_model(), make_optimizer())
trainer.fit(make_data())
if trainer.elastic_run.is_main:
    print(trainer.elastic_run.backward(0))
"""


def test_a_run_by_other_names(tmp_path: Path) -> None:
    check_script(tmp_path, OTHER_NAMES)


ORDINARY = """\
import os  # <- never-joins
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader, DistributedSampler
from tqdm import tqdm

def loaders():
    sampler = DistributedSampler(train)  # <- sampler
    return DataLoader(train, sampler=sampler), DataLoader(val)

class Trainer:
    def __init__(self, lr):
        self.rank = int(os.environ["RANK"])  # <- environment
        self.world_size = dist.get_world_size()  # <- early-collective
        self.best = 0.0  # <- plain-value
        self.model = DDP(make_model())  # <- ddp
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=lr * self.world_size)  # <- scaled-by-ranks
        self.train_loader, self.val_loader = loaders()
        self.steps = 10 * len(self.train_loader)  # <- length

    def train_epoch(self, epoch, loader):
        for i, (x, y) in enumerate(tqdm(loader)):
            rate(self.optimizer, epoch * len(loader) + i)  # <- pass-counter
            loss = self.model(x).mean()
            self.optimizer.zero_grad()
            loss.backward()  # <- backward
            self.optimizer.step()

    def fit(self):
        for epoch in range(10):  # <- epochs
            self.train_epoch(epoch, self.train_loader)
            accuracy = self.evaluate()
            if accuracy > self.best:
                self.best = accuracy
            if self.rank == 0:
                torch.save(self.model.state_dict(), "last.pt")

    def evaluate(self):
        return 0.5

def main():
    dist.init_process_group("nccl")  # <- own-group
    Trainer(0.1).fit()
    dist.barrier()
    dist.destroy_process_group()

if __name__ == "__main__":
    main()
"""


def test_an_ordinary_script_is_told_each_line(tmp_path: Path) -> None:
    check_script(tmp_path, ORDINARY)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("from transformers import Trainer\nTrainer(model).train()\n", "resume_from_checkpoint"),
        ("import transformers\nclass T(transformers.Trainer): pass\nT(model).train()\n", "resume_from_checkpoint"),
        ("import lightning as L\nL.Trainer().fit(model)\n", "ckpt_path"),
        ("import pytorch_lightning as pl\npl.Trainer().fit(model)\n", "ckpt_path"),
        ("from torch.distributed.fsdp import fully_shard\nfully_shard(model)\n", "rescale: restart"),
        ("import deepspeed\ndeepspeed.initialize(model=model)\n", "rescale: restart"),
    ],
)
def test_what_belongs_to_another_mode_is_all_that_is_said(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "train.py"
    path.write_text(text)
    (one,) = check(path).findings
    assert one.line == text.count("\n")
    assert "cannot be rescaled in place" in one.what
    assert words in one.fix


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import torch\nprint(torch.ones(1))\n", "nothing here uses powerflow.elastic"),
        ("from powerflow import elastic\n", "elastic.init is never called"),
        ("from powerflow import elastic\nrun = elastic.init()\nprint(run.rank)\n", "run.wrap is never called"),
        ("from powerflow import elastic\nrun = elastic.init()\nrun.wrap(model)\n", "run.epochs is never called"),
    ],
)
def test_what_lacks_is_said_of_the_whole_script(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(text)
    (one,) = check(path).findings
    assert one.line == 1
    assert one.what.startswith(words)
    assert "change the lines below" not in one.fix


def test_files_beside_the_script_are_read(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import mine.loop\nimport strange_package\nfrom mine import data\n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("")
    (tmp_path / "mine" / "loop.py").write_text("from . import helper\n" + script())
    (tmp_path / "mine" / "helper.py").write_text("import torch\nimport train\ntorch.get_rng_state()\n")
    (tmp_path / "mine" / "data.py").write_text("")
    report = check(tmp_path / "train.py")
    assert [Path(name).name for name in report.files] == ["train.py", "__init__.py", "loop.py", "data.py", "helper.py"]
    assert [(Path(one.file).name, one.line) for one in report.findings] == [("helper.py", 3)]
    assert "code of other packages: strange_package" in report.not_seen
    assert not never_joins(tmp_path / "train.py")


@pytest.mark.parametrize(
    ("text", "never"),
    [
        ("import torch\n", True),
        ("from powerflow import elastic\n", False),
        ("import powerflow.elastic as pe\n", False),
        ("import powerflow\nrun = powerflow.elastic.init()\n", False),
        ("from powerflow.elastic import init\n", False),
        ("import powerflow\nprint(powerflow.__version__)\n", True),
        ("import importlib\nimportlib.import_module('powerflow.elastic')\n", False),
        ("# powerflow.elastic\nimport elastic\n", True),
        ("this is no Python\n", False),
    ],
)
def test_whether_a_script_never_joins(tmp_path: Path, text: str, never: bool) -> None:
    path = tmp_path / "train.py"
    path.write_text(text)
    assert never_joins(path) is never


def test_a_script_that_is_not_there_is_not_known() -> None:
    assert not never_joins(Path("/nowhere/train.py"))


def test_what_is_no_python_is_said_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text("x = 1\nfor for\n")
    with pytest.raises(InputError, match=r"train\.py:2: no Python \(invalid syntax\)"):
        check(path)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "train.py"
    path.write_text(script())
    assert main(["elastic", "check", str(path)]) == 0
    assert "nothing found. Not seen by this check:\n    values at run time" in capsys.readouterr().out
    path.write_text(script(step="loss.backward()"))
    assert main(["elastic", "check", str(path)]) == 1
    shown = capsys.readouterr().out
    line = script(step="loss.backward()").splitlines().index("            loss.backward()") + 1
    assert f"{path}:{line}: gradients of this backward" in shown
    assert "better: run.backward(loss)" in shown
    assert main(["elastic", "check", str(path), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["kind"] == "elastic_check"
    assert document["joins"] is True
    (one,) = document["findings"]
    assert (one["line"], one["rule"], one["fix"]) == (line, "backward", "run.backward(loss)")
    assert main(["elastic", "check", str(tmp_path / "none.py")]) == 3
    assert "none.py: no such file" in capsys.readouterr().err


def test_the_check_runs_nothing_and_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from powerflow.elastic.check.report import check;"
        "check(Path(sys.argv[1])); sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    path = tmp_path / "train.py"
    path.write_text("raise SystemExit(3)\n")
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 0
