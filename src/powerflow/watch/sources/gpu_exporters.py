"""Know the metrics and labels of the exporters that bring GPUs' readings to Prometheus.

dcgm-exporter (NVIDIA)
    Names, units and labels: its ``METRICS.md``, ``etc/default-counters.csv`` and ``render_metrics.go``. The energy
    counter is in millijoules since the driver was loaded. Version 4.9 uses the names of DCGM 4.7, in joules, hertz and
    ratios; 4.8.3 writes the label ``hostname`` small. It reads its GPUs every 30 s unless told otherwise. With MIG,
    each instance repeats the values of the whole GPU (its issues 257 and 317).
nvidia_gpu_exporter (utkuozdemir)
    Its ``docs/METRICS.md``. Series have ``uuid`` alone; the number of the GPU stands in ``nvidia_smi_gpu_info``. The
    energy counter exists with its NVML backend only.
nvidia_gpu_prometheus_exporter (jobstats of Princeton University)
    ``main.go`` of plazonic/nvidia_gpu_prometheus_exporter. It has no energy counter. ``minor_number`` is that of
    ``/dev/nvidiaN``, ``nvidia_gpu_jobId`` the number of the Slurm job that holds the GPU.
slurm-job-exporter (guilbaults)
    Tells jobs, users and accounts. Its label ``gpu`` counts the GPUs of each job from 0 (its issue 63).
PowerFlow
    `powerflow.service.metrics`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from powerflow.osutil.host_names import short_host


class Exporter(NamedTuple):
    """A program that brings metrics of GPUs.

    Attributes:
        name: Its name.
        age_s: How old its values may be when it is asked, in seconds: how often it reads its GPUs.
    """

    name: str
    age_s: float


class Metric(NamedTuple):
    """What a metric of an exporter tells.

    Attributes:
        exporter: The exporter.
        column: The column of `powerflow.watch.series.GpuSeries` that it fills; or ``limit_w`` (power limit), ``info``
            (labels alone), ``job`` (the value is the number of a Slurm job), ``uid`` (the value is a user's number).
        factor: Its value times this is in the unit of the column.
        most: Highest value that is believed, in the unit of the column.
    """

    exporter: Exporter
    column: str
    factor: float
    most: float


DCGM = Exporter("dcgm-exporter", 30.0)
NVIDIA_SMI = Exporter("nvidia_gpu_exporter", 2.0)
JOBSTATS = Exporter("nvidia_gpu_prometheus_exporter", 1.0)
SLURM_JOB = Exporter("slurm-job-exporter", 10.0)
POWERFLOW = Exporter("PowerFlow", 10.0)

_OF_EXPORTER: dict[Exporter, dict[str, tuple[str, float]]] = {
    DCGM: {
        "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": ("energy_j", 1e-3),
        "DCGM_FI_DEV_GPU_ENERGY_JOULES_TOTAL": ("energy_j", 1.0),
        "DCGM_FI_DEV_POWER_USAGE": ("power_w", 1.0),
        "DCGM_FI_DEV_BOARD_POWER_WATTS": ("power_w", 1.0),
        "DCGM_FI_DEV_SM_CLOCK": ("clock_mhz", 1.0),
        "DCGM_FI_DEV_SM_CLOCK_HERTZ": ("clock_mhz", 1e-6),
        "DCGM_FI_DEV_GPU_UTIL": ("utilisation", 1e-2),
        "DCGM_FI_DEV_GPU_UTIL_RATIO": ("utilisation", 1.0),
        "DCGM_FI_PROF_SM_ACTIVE": ("sm_active", 1.0),
        "DCGM_FI_PROF_SM_UTIL_RATIO": ("sm_active", 1.0),
        "DCGM_FI_PROF_DRAM_ACTIVE": ("memory_active", 1.0),
        "DCGM_FI_PROF_DRAM_UTIL_RATIO": ("memory_active", 1.0),
        "DCGM_FI_DEV_POWER_MGMT_LIMIT": ("limit_w", 1.0),
        "DCGM_FI_DEV_ENFORCED_POWER_LIMIT": ("limit_w", 1.0),
    },
    NVIDIA_SMI: {
        "nvidia_smi_energy_joules_total": ("energy_j", 1.0),
        "nvidia_smi_power_draw_watts": ("power_w", 1.0),
        "nvidia_smi_clocks_current_sm_clock_hz": ("clock_mhz", 1e-6),
        "nvidia_smi_utilization_gpu_ratio": ("utilisation", 1.0),
        "nvidia_smi_enforced_power_limit_watts": ("limit_w", 1.0),
        "nvidia_smi_gpu_info": ("info", 1.0),
    },
    JOBSTATS: {
        "nvidia_gpu_power_usage_milliwatts": ("power_w", 1e-3),
        "nvidia_gpu_duty_cycle": ("utilisation", 1e-2),
        "nvidia_gpu_jobId": ("job", 1.0),
        "nvidia_gpu_jobUid": ("uid", 1.0),
    },
    SLURM_JOB: {"slurm_job_power_gpu": ("info", 1.0)},
    POWERFLOW: {
        "powerflow_gpu_power_watts": ("power_w", 1.0),
        "powerflow_gpu_clock_hertz": ("clock_mhz", 1e-6),
        "powerflow_gpu_utilisation_ratio": ("utilisation", 1.0),
    },
}

#: Highest believable value of a column. DCGM writes numbers near 2**63, 2**47 and 2**31 for values that it lacks.
_MOST = {
    **{"energy_j": 1e12, "power_w": 1e4, "limit_w": 1e4, "clock_mhz": 1e4},
    **{"utilisation": 1.01, "sm_active": 1.01, "memory_active": 1.01},
}
#: All metrics that are read, by name.
METRICS = {
    name: Metric(exporter, column, factor, _MOST.get(column, math.inf))
    for exporter, metrics in _OF_EXPORTER.items()
    for name, (column, factor) in metrics.items()
}

_DEVICE = re.compile(r"nvidia(\d{1,4})")
_NUMBER = re.compile(r"\d{1,4}")
#: Names of the pods in which an exporter runs: a GPU's labels name its exporter's pod where no other pod is named.
_EXPORTERS_POD = re.compile(r"(dcgm|gpu|nvidia|smi)[a-z0-9_.-]*exporter")


class ExportedGpu(NamedTuple):
    """What the labels of one series tell of its GPU.

    Attributes:
        uuid: The driver's name of the whole GPU, ``GPU-…``; "" if it is not told.
        node: Short host name; "" if it is not told.
        instance: Short host name in the label ``instance``: where Prometheus finds the exporter; "" if the user names
            another label.
        number: Its number on the node, as ``/dev/nvidiaN`` counts; None if it is not told.
        slice: Number of the MIG instance; "" for a whole GPU.
        vendor_name: Name of its model; "" if it is not told.
        emulated: True if it is no real GPU.
    """

    uuid: str
    node: str
    instance: str
    number: int | None
    slice: str
    vendor_name: str
    emulated: bool


def gpu_of(labels: Mapping[str, str], node_label: str = "") -> ExportedGpu:
    """Return what the labels of one series tell of its GPU.

    Args:
        labels: All labels.
        node_label: Label that names the node; "" to look for one.
    """
    uuid = _first(labels, "UUID", "uuid", "gpu_uuid")
    if uuid.startswith("MIG-"):
        uuid = ""
    elif uuid and not uuid.startswith("GPU-"):  # nvidia_gpu_exporter cuts it off
        uuid = f"GPU-{uuid}"
    device = _DEVICE.fullmatch(labels.get("device", ""))
    number = device[1] if device else _first(labels, "minor_number", "gpu", "index")
    instance = short_host(labels.get("instance", ""))
    return ExportedGpu(
        uuid,
        short_host(labels.get(node_label, "")) if node_label else _node(labels) or instance,
        "" if node_label else instance,
        int(number) if _NUMBER.fullmatch(number) else None,
        _first(labels, "GPU_I_ID", "gpu_i_id"),
        _first(labels, "modelName", "model_name", "name", "gpu_type"),
        labels.get("emulated") == "true",
    )


def _node(labels: Mapping[str, str]) -> str:
    """Return the node that a label names. In Kubernetes the exporter's host name may be that of its pod."""
    for name in ("Hostname", "hostname", "node", "kubernetes_node"):
        value = labels.get(name, "")
        if value and not is_exporters_pod(value):
            return short_host(value)
    return ""


def is_exporters_pod(name: str) -> bool:
    """Return True if this is the name of a pod in which an exporter of GPUs runs."""
    return _EXPORTERS_POD.search(name) is not None


def _first(labels: Mapping[str, str], *names: str) -> str:
    """Return the first of these labels that is there and not empty; else ""."""
    return next((value for name in names if (value := labels.get(name))), "")
