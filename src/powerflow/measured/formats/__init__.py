"""Read measured files in many formats, each in its own module; `FORMATS` lists them."""

from powerflow.measured.formats.codecarbon import CODECARBON
from powerflow.measured.formats.dcgmi import DCGMI
from powerflow.measured.formats.format import MeasuredFormat as MeasuredFormat
from powerflow.measured.formats.nvidia_smi import NVIDIA_SMI
from powerflow.measured.formats.prometheus import PROMETHEUS
from powerflow.measured.formats.wandb import WANDB_CSV, WANDB_JSON
from powerflow.measured.formats.zeus_limits import ZEUS_LIMITS
from powerflow.measured.formats.zeus_windows import ZEUS_WINDOWS

FORMATS: tuple[MeasuredFormat, ...] = (
    PROMETHEUS,
    ZEUS_WINDOWS,
    ZEUS_LIMITS,
    CODECARBON,
    NVIDIA_SMI,
    DCGMI,
    WANDB_CSV,
    WANDB_JSON,
)
