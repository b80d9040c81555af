"""Read what an NVIDIA GPU did since its last reading, through NVML's GPM interface (GPU performance monitoring).

GPM exists on Hopper GPUs and newer ones. A *sample* is a copy of the GPU's performance counters, and a *metric* is
computed by the driver from two samples. The metrics that are read here are percentages, 0 to 100:

- ``NVML_GPM_METRIC_SM_UTIL``: percentage of SMs that were busy;
- ``NVML_GPM_METRIC_ANY_TENSOR_UTIL``: percentage of time the GPU's SMs were doing any tensor operations;
- ``NVML_GPM_METRIC_DRAM_BW_UTIL``: percentage of DRAM bandwidth used, of the theoretical maximum.

Source: NVIDIA's NVML API reference, "GPM Enums" and "GPM Functions"
(https://docs.nvidia.com/deploy/nvml-api/group__nvmlGpmFunctions.html). It also says that two samples must be more than
100 ms apart, because the counters are renewed only so often.
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from powerflow.device.protocol import Activity, DeviceError, DeviceLost, NotPermitted, Unsupported

#: Least time between two samples, seconds: above NVML's 100 ms.
APART_S = 0.15
#: A share above this is no measurement. Between 1 and this it is rounding, and counts as 1.
MOST_SHARE = 1.05


class ActivitySampler:
    """Samples the performance counters of one GPU. Only the thread that calls this GPU's driver may use it.

    A GPU that does not support this, or does not permit it, is asked once and not again.

    Args:
        binding: The module ``pynvml``.
        calls: Makes the context in which errors of the driver are raised as `DeviceError`.
    """

    def __init__(self, binding: Any, calls: Callable[[], AbstractContextManager[None]]) -> None:
        self._nvml, self._calls = binding, calls
        self._refused = False
        self._samples: list[Any] = []  # the older one, and the one that is written next
        self._request: Any = None
        self._sampled_s = -math.inf  # time of the older sample
        self._activity: Activity | None = None
        # not at the end of the process, which frees all memory: a driver that is stuck must not keep it
        weakref.finalize(self, _free, binding, self._samples).atexit = False

    def read(self, handle: Any) -> Activity | None:
        """Return what the GPU did since the last call; None if it does not tell.

        The first call returns None. A call too soon after the last sample (`APART_S`) returns the same as the last
        call, and the next one contains the time of both.

        Args:
            handle: NVML's handle of the GPU.

        Raises:
            DeviceLost: The GPU cannot be reached any more.
        """
        if self._refused:
            return None
        try:
            return self._read(handle)
        except DeviceLost:
            raise
        except (Unsupported, NotPermitted):
            self._refused = True
            _free(self._nvml, self._samples)
        except DeviceError:  # it may pass
            self.begin_anew()
        return None

    def begin_anew(self) -> None:
        """Forget the last sample, because the GPU was lost: the next call of `read` counts as the first one."""
        self._sampled_s, self._activity = -math.inf, None

    def _read(self, handle: Any) -> Activity | None:
        now_s = time.monotonic()
        if now_s - self._sampled_s < APART_S:
            return self._activity
        with self._calls():
            if self._request is None:
                self._request = self._prepared(handle)
            older, newer = self._samples
            self._nvml.nvmlGpmSampleGet(handle, newer)
            if math.isfinite(self._sampled_s):
                self._activity = self._between(older, newer)
        self._samples.reverse()
        self._sampled_s = now_s
        return self._activity

    def _prepared(self, handle: Any) -> Any:
        """Return a request for the metrics, and allocate the samples."""
        nvml = self._nvml
        if not nvml.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice:
            raise Unsupported("this GPU has no GPM")
        while len(self._samples) < 2:
            self._samples.append(nvml.nvmlGpmSampleAlloc())
        request = nvml.c_nvmlGpmMetricsGet_t()
        request.version = nvml.NVML_GPM_METRICS_GET_VERSION
        wanted = nvml.NVML_GPM_METRIC_SM_UTIL, nvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL, nvml.NVML_GPM_METRIC_DRAM_BW_UTIL
        request.numMetrics = len(wanted)
        for place, metric in enumerate(wanted):
            request.metrics[place].metricId = metric
        return request

    def _between(self, older: Any, newer: Any) -> Activity:
        request = self._request
        request.sample1, request.sample2 = older, newer
        self._nvml.nvmlGpmMetricsGet(request)
        return Activity(*(self._share(request.metrics[place]) for place in range(request.numMetrics)))

    def _share(self, metric: Any) -> float:
        """Return a metric as a share, 0 to 1; nan if the GPU does not report it, or if it cannot be true."""
        share = float(metric.value) / 100.0
        told = metric.nvmlReturn == self._nvml.NVML_SUCCESS and 0.0 <= share <= MOST_SHARE
        return min(share, 1.0) if told else math.nan


def _free(nvml: Any, samples: list[Any]) -> None:
    """Free samples, and remove them from their list."""
    while samples:
        try:
            nvml.nvmlGpmSampleFree(samples.pop())
        except nvml.NVMLError:  # the driver was unloaded, and its memory with it
            continue
