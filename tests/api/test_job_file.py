"""job.yaml: read as it is written, and wrong with a line, a field and what would be right."""

from __future__ import annotations

import contextlib
from pathlib import Path

import jsonschema_rs
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from powerflow.api import job_spec
from powerflow.api.job_file import read_spec, spec_of_text
from powerflow.api.job_schema import job_schema
from powerflow.api.job_spec import JobSpec
from powerflow.errors import InputError
from tests.slow import examples

#: The example at the top of the module that defines the format.
EXAMPLE = (job_spec.__doc__ or "").split("::\n", 1)[1]
EXAMPLE = "\n".join(line.removeprefix("    ") for line in EXAMPLE.splitlines())


def test_the_example_of_the_module_is_a_job() -> None:
    job = spec_of_text(EXAMPLE)
    assert job.run == "python train.py"
    assert str(job.gpus) == "1..8"
    assert job.batch is not None
    assert (job.batch.global_batch, job.batch.local_max) == (512, 128)
    assert job.energy.max_slowdown == pytest.approx(0.1)
    assert (job.checkpoint.dir, job.checkpoint.grace, job.checkpoint.every) == ("ck", 30.0, 600.0)
    assert job.progress == r"step (?P<step>\d+)"
    assert job.env == {"DATA": "/data"}
    jsonschema_rs.Draft202012Validator(job_schema()).validate(yaml.safe_load(EXAMPLE))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "job.yaml: file is empty; only 'run' is required"),
        ("# nothing\n---\n", "job.yaml: file is empty"),
        ("- run: x", "job.yaml:1: expected 'key: value' lines"),
        ("python train.py", "job.yaml:1: expected 'key: value' lines"),
        ("name: a\n", "job.yaml:1: no 'run'; only 'run' is required: run: python train.py"),
        ("run: x\nrun: y", "job.yaml:2: key 'run' occurs twice"),
        ("run: x\nbatch: {global: 8, global: 9}", "job.yaml:2: key 'global' occurs twice"),
        ("run: x\n\npriorty: low", "job.yaml:3: unknown key 'priorty'; do you mean 'priority'?"),
        (
            "run: x\nbatch:\n  global: 8\n  locl_max: 4",
            "job.yaml:4: unknown key 'locl_max' in batch; do you mean 'local_max'",
        ),
        ("run: x\ngpus: 1:8", "job.yaml:2: gpus: cannot read '1:8' as GPUs; write 4, 1..8, [1, 2, 4, 8], {"),
        ("run: x\ngpus: 010", "job.yaml:2: gpus: cannot read '010' as GPUs"),
        ("run: x\nretries: yes", "job.yaml:2: retries is 'yes'; give a whole number"),
        ("run: x\nretries: 1_0", "job.yaml:2: retries is '1_0'; give a whole number"),
        ("run: x\nproject:", "job.yaml:2: project is empty; remove the key, or give a value"),
        ("gpus: 1..8\nrun: x", "job.yaml:1: gpus: rescale is none, so gpus must be one number, not 1..8"),
        ("run: x\ncheckpoint:\n  dir: ck\n  grace: 1 parsec", "job.yaml:4: checkpoint.grace: cannot read '1 parsec'"),
        ("run: x\nenv:\n  A: b\n  PORT: 8080", "job.yaml:4: env.PORT is 8080; give text (put a number in quotes)"),
        ("run: x\nenv:\n  A-B: b", "job.yaml:3: env.A-B is 'A-B'; use letters, digits and '_'"),
        ("run: x\nname: &a y\nproject: *a", "job.yaml:2: anchors"),
        ("run: &a [*a]", "job.yaml:1: anchors"),
        ("run: !!python/object/apply:os.system ['x']", "job.yaml:1: run is"),
        ("run: !cmd x", "job.yaml:1: tag '!cmd' is not allowed here"),
        ("run: x\n? [a, b]\n: c", "job.yaml:2: a key is not a plain word"),
        ("run: x\nenv: {<<: {A: b}}", "job.yaml:2: env.<< is"),
        ("run: [" * 400, "job.yaml"),
        ("run: x\na: " + "{b: " * 20 + "1" + "}" * 20, "job.yaml:2: the YAML is nested too deeply"),
        ("run: 'x", "job.yaml:1: not YAML: found unexpected end of stream"),
        ("run: x\n\tname: y", "job.yaml:2: not YAML"),
        ("run: x\n---\nrun: y", "job.yaml:2: not YAML: but found another document"),
        ("run: x\nname: \x07", "job.yaml: not YAML: special characters are not allowed"),
        ('run: "a\\0b"', "job.yaml:1: run is 'a\\x00b'; remove the NUL character"),
        ('run: "\\ud800"', "job.yaml:1: run"),
        (
            "run: x\nbatch: {global: 4}\nrescale: in-place\ngpus: 2..8",
            "job.yaml:4: gpus: 8 GPUs are too many for a global batch of 4",
        ),
        ("run: x\nzzz: 1\npriority: urgent", "job.yaml:2: unknown key 'zzz'"),
        ("run: x\npriority: urgent\nzzz: 1", "job.yaml:2: priority is 'urgent'"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_spec("job.yaml")
    assert str(caught.value).startswith(what)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\x7fELF\x00\x01", "binary file, not a job"),
        (b"run: \xff\xfe", "binary file, not a job"),
        (b"run: " + b"x" * (1 << 20), "larger than 1 MiB: not a job"),
    ],
)
def test_a_file_that_is_something_else(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=what):
        read_spec(path)


def test_a_file_that_is_not_there_or_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file") as missing:
        read_spec(tmp_path / "job.yaml")
    assert missing.value.exit_code == 3
    with pytest.raises(InputError, match="cannot read: Is a directory"):
        read_spec(tmp_path)
    with pytest.raises(InputError, match="not a path to a file"):
        read_spec("a\0b")


def test_words_stay_words() -> None:
    job = spec_of_text(
        "run: yes\nname: on\nproject: 2024-01-01\nmodel: null-net\nenv: {A: no, B: '010', C: 1:30, D: ~x}"
    )
    assert (job.run, job.name, job.project, job.model) == ("yes", "on", "2024-01-01", "null-net")
    assert job.env == {"A": "no", "B": "010", "C": "1:30", "D": "~x"}


def test_numbers_that_yaml_takes_for_text() -> None:
    job = spec_of_text("run: x\nwork: {iterations: 2e4}\ncheckpoint: {every: 1.5, grace: 10}")
    assert job.work is not None
    assert (job.work.iterations, job.checkpoint.every, job.checkpoint.grace) == (20000.0, 1.5, 10.0)


def test_a_command_of_several_lines_and_a_byte_order_mark() -> None:
    assert spec_of_text(b"\xef\xbb\xbfrun: |\n  cd x\n  python train.py\n").run == "cd x\n  python train.py".replace(
        "  p", "p"
    )


def test_a_directory_is_taken_from_the_files_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    path = tmp_path / "job.yaml"
    for written, meant in (
        ("runs/7", f"{tmp_path}/runs/7"),
        (".", str(tmp_path)),
        ("/abs", "/abs"),
        ("~/x", "/home/ada/x"),
    ):
        path.write_text(f"run: x\ndirectory: {written}\n")
        assert read_spec(path).directory == meant
    path.write_text("run: x\ncheckpoint: {dir: ~/ck}\n")
    assert read_spec(path).checkpoint.dir == "/home/ada/ck"
    path.write_text("run: x\ncheckpoint: {dir: ~no-such-user/ck}\n")
    with pytest.raises(InputError, match=r"checkpoint.dir is '~no-such-user/ck'; give an absolute path"):
        read_spec(path)
    path.write_text("run: x\ndirectory: ~no-such-user/x\n")
    with pytest.raises(InputError, match=r"directory is '~no-such-user/x'; give an absolute path"):
        read_spec(path)
    path.write_text("run: x\n")
    assert read_spec(path).directory is None
    monkeypatch.chdir(tmp_path)
    assert spec_of_text("run: x\ndirectory: here").directory == f"{tmp_path}/here"


def test_flags_win_over_the_file_and_may_complete_it(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("run: x\ngpus: 1..8\ndirectory: here\n")
    with pytest.raises(InputError, match="rescale is none"):
        read_spec(path)
    job = read_spec(path, over={"rescale": "restart", "directory": "/there"})
    assert (job.rescale, str(job.gpus), job.directory) == ("restart", "1..8", "/there")
    with pytest.raises(InputError, match=r"job\.yaml:1: priority is 'urgent'"):
        read_spec(path, over={"rescale": "restart", "priority": "urgent"})


SIGNS = (
    ": ",
    "\n",
    "\n  ",
    "- ",
    "{",
    "}",
    "[",
    "]",
    ",",
    "&a ",
    "*a",
    "!!int ",
    "!x ",
    "'",
    '"',
    "|\n  ",
    "? ",
    "<<",
    "#",
    "~",
)
VALUES = ("1..8", "10%", "30s", "null", "1e999", "0x1F", "1:30", "2024-01-01", "\\ud800", "\u2028", "global")
WORDS = st.sampled_from([*JobSpec.model_fields, *SIGNS, *VALUES])


@settings(max_examples=examples(400), deadline=None)
@given(st.lists(WORDS | st.text(max_size=3), max_size=12).map("".join))
@example("run: x\ngpus: 0x1F")
@example("=: 1")
@example("run: =")
@example("%TAG ! x\n---\n!a b")
def test_no_text_does_more_than_be_refused(text: str) -> None:
    for whole in (text, "run: x\n" + text):
        with contextlib.suppress(InputError):
            assert isinstance(spec_of_text(whole), JobSpec)


@settings(max_examples=examples(100), deadline=None)
@given(st.binary(max_size=60))
def test_no_bytes_do_more_than_be_refused(content: bytes) -> None:
    with contextlib.suppress(InputError):
        spec_of_text(content)
