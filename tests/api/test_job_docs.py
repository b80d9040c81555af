"""docs/job.md says what the model says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from pydantic import BaseModel

from powerflow.api.job_file import spec_of_text
from powerflow.api.job_schema import job_schema
from powerflow.api.job_spec import Batch, Checkpoint, Energy, JobSpec, ProcessLimits, Work
from powerflow.errors import InputError
from powerflow.gangs.log_progress import LINE_CHARS

PAGE = (Path(__file__).parents[2] / "docs/job.md").read_text(encoding="utf-8")
PARTS: dict[str, type[BaseModel]] = {
    "batch": Batch,
    "energy": Energy,
    "checkpoint": Checkpoint,
    "work": Work,
    "limits": ProcessLimits,
}
ROWS = dict(re.findall(r"^\| `([a-z_.]+)` \| (.+?) \|", PAGE, re.MULTILINE))


def described() -> dict[str, str]:
    """Every key there is, and how the page has to write its default."""
    keys: dict[str, str] = {}
    for name, field in JobSpec.model_fields.items():
        if name not in PARTS:
            keys[name] = default(name, field.get_default(call_default_factory=True), field.is_required(), "")
            continue
        for inner, part in PARTS[name].model_fields.items():
            value = part.get_default(call_default_factory=True)
            key = f"{name}.{part.alias or inner}"
            keys[key] = default(key, value, part.is_required(), f" in `{name}`")
    return keys


def default(name: str, value: Any, required: bool, inside: str) -> str:
    if required:
        return f"required{inside}"
    if value in (None, "", {}):
        return "none"
    return f"`{value:g}s`" if name in ("checkpoint.grace", "checkpoint.every") else f"`{value}`"


def test_every_key_is_described_with_its_default() -> None:
    assert described() == ROWS


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
def test_every_example_is_a_job(text: str) -> None:
    assert spec_of_text(text).run
    jsonschema_rs.Draft202012Validator(job_schema()).validate(yaml.safe_load(text))


def test_the_error_that_is_shown_is_what_is_said() -> None:
    with pytest.raises(InputError) as caught:
        spec_of_text("run: x\n\npriorty: low", "job.yaml")
    assert str(caught.value) in PAGE


def test_limits_are_those_of_the_code() -> None:
    assert f"first {LINE_CHARS} characters" in PAGE
    assert "0 to 100" in PAGE
    for retries, taken in ((0, True), (100, True), (101, False)):
        if taken:
            spec_of_text(f"run: x\nretries: {retries}")
        else:
            with pytest.raises(InputError):
                spec_of_text(f"run: x\nretries: {retries}")
