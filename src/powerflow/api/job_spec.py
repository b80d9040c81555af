r"""Define and check the fields of a job, as ``job.yaml``, API requests and ``powerflow submit`` have them.

::

    name: resnet50-a
    run: python train.py            # the only key that is required
    gpus: 1..8                      # or 4, [1, 2, 4, 8], {multiple_of: 2, max: 16}; with a type: H100:1..8
    batch: {global: 512, local_max: 128}
    priority: normal                # protected | high | normal | low
    energy: {max_slowdown: 10%}
    rescale: in-place               # in-place | restart | none
    checkpoint: {dir: ck, grace: 30s, every: 10m}
    project: vision
    model: resnet50                 # a model family; its known costs are the first estimate for this job
    work: {iterations: 20000}       # iterations of the whole job, if known
    progress: 'step (?P<step>\d+)'  # finds step numbers in the log, for scripts that do not use powerflow
    limits: {memory: 16GiB, cpus: 4, between_steps: 1h}  # for each process
    time_limit: 12h                 # how long it may run, without the time in the queue
    directory: /home/ada/run7
    output: powerflow-%j.out        # file that gets its output, too
    env: {DATA: /data}
    retries: 2
    array: 0-9%4                    # ten jobs, of which at most four run at once
    dependency: afterok:12          # start when job 12 has completed
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    WithJsonSchema,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from powerflow.api import dependency as dependencies
from powerflow.api import job_array, output_path
from powerflow.api.gpu_counts import MOST_COUNTS, MOST_GPUS, TEXT, TYPE, Counts, NoCounts, read_counts, said
from powerflow.api.launchers import check_launcher
from powerflow.api.patterns import check_progress
from powerflow.errors import InputError, shortened
from powerflow.units import DAY_S, DURATION, HOUR_S, SIZE, bytes_of, seconds_of

Priority = Literal["protected", "high", "normal", "low"]
#: "external" is for jobs that another scheduler runs (`powerflow.beside`); nobody can submit one.
Rescale = Annotated[
    Literal["in-place", "restart", "none", "external"],
    WithJsonSchema({"enum": ["in-place", "restart", "none"], "type": "string"}),
]

#: Weight of a job in the mean JCT, by priority.
WEIGHTS: dict[Priority, float] = {"protected": 4.0, "high": 2.0, "normal": 1.0, "low": 0.5}

# the human forms; the same patterns stand in the JSON Schema
_SHARE = r"([0-9]{1,3}(\.[0-9]{1,9})?)\s*%"
_NUMBER = r"[0-9]{1,15}(\.[0-9]{1,9})?([eE][+]?[0-9]{1,2})?"
_CLOCK_TIME = r"(([0-9]{1,4})-)?([0-9]{1,4}):([0-5][0-9]):([0-5][0-9])"
#: Less was meant as GiB.
_LEAST_BYTES = 1_000_000
_MOST_BYTES = 1 << 50
#: A share of ten or more was meant as percent.
_MOST_SHARE = 10

#: Seconds between SIGTERM and SIGKILL for who says nothing.
USUAL_GRACE_S = 30.0

#: A name that is safe in a file path, a URL and a metric's label.
NAME = r"^([A-Za-z0-9][A-Za-z0-9._-]*)?$"
#: Name of a job: any text of one line, without control characters and marks that change the direction of text.
JOB_NAME = r"^[^\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]*$"
#: No operating system takes a NUL in an argument, a path or a variable.
NO_NUL = r"^[^\x00]*$"
#: A path from the root, or from where the job runs; whose home ``~`` is only the reader of a file can tell.
NO_HOME = r"^[^~\x00][^\x00]*$"
#: Name of an environment variable; those of PowerFlow itself cannot be set.
VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"
_RESERVED = "POWERFLOW_"


def broken(what: str, fix: str, field: str = "") -> PydanticCustomError:
    """Return a validation error: what is wrong and how to correct it. For a rule about several fields, name one
    ``field``.
    """
    return PydanticCustomError("rule", "{what}; {fix}", {"what": what, "fix": fix, "field": field})


class Part(BaseModel):
    """Strict: YAML's ``yes`` is no number 1, and a number no text."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, str_strip_whitespace=True)


class Gpus(Part):
    """GPU counts that a job can use: all from ``least`` to ``most``, or only those in ``counts``."""

    least: int = Field(ge=1, le=MOST_GPUS)
    most: int = Field(ge=1, le=MOST_GPUS)
    gpu_type: str | None = Field(default=None, pattern=rf"^{TYPE}$")
    counts: tuple[int, ...] | None = Field(default=None, max_length=MOST_COUNTS)

    def __str__(self) -> str:
        return said(Counts(self.least, self.most, self.gpu_type, self.counts))

    def runs_on(self, gpus: int) -> bool:
        """Return True if the job can run on this number of GPUs."""
        return gpus in self.counts if self.counts is not None else self.least <= gpus <= self.most

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.least > self.most:
            raise broken(f"{self} has a minimum above its maximum", "write LEAST..MOST")
        counts = self.counts
        if counts is not None:
            rising = list(counts) == sorted(set(counts)) and len(counts) > 1
            if not rising or (counts[0], counts[-1]) != (self.least, self.most):
                raise broken("the counts are not in ascending order", "write [1, 2, 4, 8]")
        return self

    @model_serializer(mode="wrap")
    def _brief(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write a range without ``counts``, as it was written before there were lists."""
        written: dict[str, Any] = write(self)
        if written.get("counts") is None:
            written.pop("counts", None)
        return written


def _gpus(value: Any) -> Any:
    try:
        found = read_counts(value, shortened(value))
    except NoCounts as error:
        raise broken(error.what, error.fix) from None
    if found is not None:
        return found._asdict()
    if isinstance(value, dict) and isinstance(value.get("counts"), list):  # JSON has no tuples
        return {**value, "counts": tuple(value["counts"])}
    return value


def _seconds(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    found_s = seconds_of(value)
    if found_s is None:
        raise broken(f"cannot read {shortened(value)} as a duration", "write 30s, 10m or 2h")
    return found_s


def _time_limit(value: Any) -> Any:
    """Read a duration, or a time as ``sbatch --time`` has it. Text without a unit would be minutes there."""
    if not isinstance(value, str):
        return value
    if found := re.fullmatch(_CLOCK_TIME, value.strip(), re.ASCII):
        days, hours, minutes, seconds = (float(part or 0) for part in found.group(2, 3, 4, 5))
        return days * DAY_S + hours * HOUR_S + minutes * 60 + seconds
    found_s = None if re.fullmatch(r"[0-9.]+", value.strip()) else seconds_of(value)
    if found_s is None:
        raise broken(f"cannot read {shortened(value)} as a time limit", "write 90m, 12h or 1-12:00:00")
    return found_s


def _checked(check: Callable[[str], object], fix: str) -> AfterValidator:
    """Return a validator for text, whose ``check`` raises a `ValueError` that says what is wrong."""

    def validate(value: str) -> str:
        try:
            check(value)
        except ValueError as error:
            raise broken(str(error), fix) from None
        return value

    return AfterValidator(validate)


def _share(value: Any) -> Any:
    if isinstance(value, str):
        found = re.fullmatch(_SHARE, value.strip(), re.ASCII)
        if found is None and re.fullmatch(r"0?\.[0-9]{1,9}", value.strip(), re.ASCII):
            return float(value)
        if found is None:
            raise broken(f"cannot read {shortened(value)} as a share", "write 10%")
        value = float(found[1]) / 100.0
    if isinstance(value, int | float) and value >= _MOST_SHARE:
        raise broken(f"{shortened(value)} is too large: give a share below 10", "write 10% or 0.1")
    return value


def _bytes(value: Any) -> Any:
    if isinstance(value, str):
        found = bytes_of(value)
        if found is None:
            raise broken(f"cannot read {shortened(value)} as a size", "write 512MiB or 16GB")
        value = found
    if isinstance(value, int) and not isinstance(value, bool) and value < _LEAST_BYTES:
        raise broken(f"{shortened(value)} bytes are too few for a process", "write 512MiB or 16GB")
    return value


def _number(value: Any) -> Any:
    """Read a number that YAML takes for text, such as 2e4."""
    return float(value) if isinstance(value, str) and re.fullmatch(_NUMBER, value.strip(), re.ASCII) else value


def _forms(pattern: str, examples: list[Any], *others: dict[str, Any]) -> WithJsonSchema:
    text = {"type": "string", "pattern": rf"^\s*{pattern}\s*$"}
    return WithJsonSchema({"anyOf": [*others, text], "examples": examples}, mode="validation")


_AMOUNT = {"type": "number", "minimum": 0, "maximum": 1e9}
_COUNT = {"type": "integer", "minimum": 1, "maximum": MOST_GPUS}
_TYPE = {"anyOf": [{"type": "string", "pattern": f"^{TYPE}$"}, {"type": "null"}]}
_COUNTS = {"type": "array", "items": _COUNT, "minItems": 2, "maxItems": MOST_COUNTS}


def _parts(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


GpuRange = Annotated[
    Gpus,
    BeforeValidator(_gpus),
    _forms(
        TEXT,
        [4, "1..8", "H100:1..8", [1, 2, 4, 8], {"multiple_of": 2, "max": 16}],
        _COUNT,
        _COUNTS,
        _parts(["max"], multiple_of=_COUNT, min=_COUNT, max=_COUNT, type=_TYPE),
        _parts(["counts"], counts=_COUNTS, type=_TYPE),
        _parts(
            ["least", "most"], least=_COUNT, most=_COUNT, gpu_type=_TYPE, counts={"anyOf": [_COUNTS, {"type": "null"}]}
        ),
    ),
]
Seconds = Annotated[
    float,
    BeforeValidator(_seconds),
    Field(ge=0, le=1e9, allow_inf_nan=False),
    _forms(DURATION, ["30s", "10m", 30], _AMOUNT),
]
TimeLimit = Annotated[
    float,
    BeforeValidator(_time_limit),
    Field(ge=1, le=1e9, allow_inf_nan=False),
    _forms(f"({DURATION}|{_CLOCK_TIME})", ["90m", "12h", "1-12:00:00"], _AMOUNT),
]
Array = Annotated[
    str, _checked(job_array.read_array, "write 0-9, 1,3,8, 0-20:5 or 1-100%4"), Field(pattern=rf"^{job_array.TEXT}$")
]
Dependency = Annotated[
    str,
    _checked(dependencies.read_dependency, "write afterok:12, after:12:13 or afterok:12,afterany:14"),
    Field(max_length=16_384, pattern=rf"^{dependencies.TEXT}$"),
]
Size = Annotated[
    int,
    BeforeValidator(_bytes),
    Field(le=_MOST_BYTES),
    _forms(SIZE, ["512MiB", "16GB"], {"type": "integer", "minimum": _LEAST_BYTES, "maximum": _MOST_BYTES}),
]
Share = Annotated[
    float,
    BeforeValidator(_share),
    Field(ge=0, allow_inf_nan=False),
    _forms(_SHARE, ["10%", 0.1], {"type": "number", "minimum": 0, "exclusiveMaximum": _MOST_SHARE}),
]
Number = Annotated[
    float,
    BeforeValidator(_number),
    Field(gt=0, le=1e15, allow_inf_nan=False),
    _forms(_NUMBER, [20000], {"type": "number", "exclusiveMinimum": 0, "maximum": 1e15}),
]
Name = Annotated[str, Field(max_length=128, pattern=NAME)]
JobName = Annotated[str, Field(max_length=128, pattern=JOB_NAME)]
Path = Annotated[str, Field(min_length=1, max_length=4096, pattern=NO_NUL)]
Output = Annotated[
    Path,
    _checked(output_path.check_pattern, "use %j, %A, %a, %x, %u, %N and %t only; write %% for a percent sign"),
    Field(pattern=NO_HOME),
]
Variable = Annotated[str, Field(max_length=256, pattern=VARIABLE)]
Value = Annotated[str, Field(max_length=32_768, pattern=NO_NUL)]


class Batch(Part):
    """Samples per step over all GPUs, and the most samples that one GPU can compute at once (``local_max``)."""

    global_batch: int = Field(alias="global", ge=1, le=10**9)
    local_max: int | None = Field(default=None, ge=1, le=10**9)


class Energy(Part):
    """Largest share by which steps may become slower to save energy, compared with the job as submitted."""

    max_slowdown: Share | None = None


class Checkpoint(Part):
    """Where and how the job saves its state.

    ``grace`` is the seconds between SIGTERM and SIGKILL. ``every`` is the seconds between two checkpoints of an
    in-place job; with 0, it saves a checkpoint only when all its processes must end.
    """

    dir: Annotated[Path, Field(pattern=NO_HOME)] | None = None
    grace: Seconds = USUAL_GRACE_S
    every: Seconds = 600.0


class Work(Part):
    """Work of the whole job in iterations, if its owner knows this before the job runs."""

    iterations: Number


class ProcessLimits(Part):
    """Limits of each process of the job, including its child processes. None means no limit.

    ``between_steps`` is the longest time between two steps, for example to evaluate or save. A process that takes
    longer is treated as hung.
    """

    memory: Size | None = None
    cpus: float | None = Field(default=None, gt=0, le=1e6, allow_inf_nan=False)
    between_steps: Annotated[Seconds, Field(ge=1)] | None = None


class JobSpec(Part):
    """A job as its owner submits it. The docstring of this module has an example.

    ``shell_env`` has the environment variables of the shell from which ``powerflow submit`` was called; ``env`` comes
    before it. The controller keeps it apart from the job, deletes it when the job has ended, and never shows it.
    """

    run: str = Field(min_length=1, max_length=65536, pattern=NO_NUL)
    name: JobName = ""
    gpus: GpuRange = Gpus(least=1, most=1)
    batch: Batch | None = None
    priority: Priority = "normal"
    energy: Energy = Energy()
    rescale: Rescale = "none"
    checkpoint: Checkpoint = Checkpoint()
    project: Name = ""
    model: str | None = Field(default=None, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/+-]*$")
    work: Work | None = None
    progress: str | None = Field(default=None, min_length=1, max_length=1024, pattern=NO_NUL)
    limits: ProcessLimits = ProcessLimits()
    time_limit: TimeLimit | None = None
    directory: Annotated[Path, Field(pattern=r"^/[^\x00]*$")] | None = None
    env: dict[Variable, Value] = Field(
        default_factory=dict, max_length=512, json_schema_extra={"additionalProperties": False}
    )
    shell_env: dict[Variable, Value] = Field(
        default_factory=dict, max_length=2048, json_schema_extra={"additionalProperties": False}
    )
    output: Output | None = None
    retries: int = Field(default=2, ge=0, le=100)
    array: Array | None = None
    dependency: Dependency | None = None

    @property
    def external(self) -> bool:
        """True if another scheduler starts and ends the job, and PowerFlow sets no more than the clocks of its GPUs."""
        return self.rescale == "external"

    @property
    def untouched(self) -> bool:
        """True if PowerFlow never sets the clocks of this external job, because its owner or the site wants none."""
        return self.external and self.energy.max_slowdown == 0

    @property
    def most_slowdown(self) -> float | None:
        """Largest share by which a step may become slower: 0 for a protected job, None for no limit."""
        if self.energy.max_slowdown is not None:
            return self.energy.max_slowdown
        return 0.0 if self.priority == "protected" else None

    @model_validator(mode="after")
    def _agrees(self, info: ValidationInfo) -> Self:
        stored = (info.context or {}).get("stored")
        if self.rescale == "external" and not stored:
            raise broken("rescale is external, which no job can ask for", "write in-place, restart or none", "rescale")
        if self.rescale == "none" and self.gpus.least != self.gpus.most:
            fix = "write one number, or rescale: in-place or restart"
            raise broken(f"rescale is none, so gpus must be one number, not {self.gpus}", fix, "gpus")
        if self.batch is not None and self.gpus.most > self.batch.global_batch:
            what = f"{self.gpus.most} GPUs are too many for a global batch of {self.batch.global_batch}"
            raise broken(what, "a GPU needs at least one sample per step", "gpus")
        if not stored:  # what was submitted before a rule was made ends when it is run
            try:
                check_launcher(self.run, self.rescale, self.gpus.least, self.gpus.most)
            except InputError as error:
                raise broken(error.what, error.fix, "run") from None
            try:
                if self.progress is not None:
                    check_progress(self.progress)
            except InputError as error:
                raise broken(error.what, error.fix, "progress") from None
        for field, names in (("env", self.env), ("shell_env", self.shell_env)):
            for name in names:
                if name.startswith(_RESERVED):
                    raise broken(f"{field} sets {name}", f"{_RESERVED}… are PowerFlow's own", field)
        return self
