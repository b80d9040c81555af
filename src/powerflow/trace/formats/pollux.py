"""Read workloads of Pollux (OSDI'21; petuum/adaptdl, osdi21-artifact) and Sia (SOSP'23), which have no durations.

The logs give a job's work as training epochs of its application (the model that it trains). To convert it to
iterations, `PUBLISHED` has the number of iterations at the end of the last epoch, for each application and some batch
sizes. These numbers are from Pollux's artifact (``simulator/traces/<application>/validation-<batch>.csv``; epochs in
``simulator/applications.py``). For another batch B, the number of iterations is

    N(B) = S_min · (1 + B_noise / B) = S_min + C / B

(McCandlish et al. 2018, arXiv 1812.06162), where S_min and C are fitted to the two published batches nearest to B. On
published batches that were left out of the fit, the error is at most 5 % (bert, batch 384: 504 computed, 480
published). The least certain numbers are extrapolations: ImageNet from batches 200 and 800 up to 12,800, and yolov3
from 64 and 128 to 512.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from powerflow.trace.clock import Clock
from powerflow.trace.fields import Unusable, batch_size, clip, gpu_count, number, seconds, text
from powerflow.trace.formats.format import csv_format
from powerflow.trace.record import TraceJob

# application → ((global batch, iterations when the last epoch ended), …), by batch
PUBLISHED: Mapping[str, tuple[tuple[int, int], ...]] = {
    "bert": ((12, 14774), (96, 1885), (384, 480)),  # 2 epochs of SQuAD
    "cifar10": ((1024, 5722), (2048, 3178)),  # 100 epochs
    "deepspeech2": ((160, 4041), (320, 2264), (640, 1423)),  # 80 epochs of CMU-ARCTIC
    "imagenet": ((200, 576525), (800, 150231)),  # 90 epochs
    "ncf": ((8192, 6122), (16384, 3069)),  # 10 epochs of MovieLens
    "yolov3": ((8, 103444), (16, 52905), (32, 27430), (64, 14577), (128, 8075)),  # 50 epochs of PASCAL-VOC
}


def iterations_of(application: str, global_batch: int) -> float | None:
    """Return the number of iterations that an application needs at a global batch; None if it cannot be computed.

    Args:
        application: Name of the application (the trained model) in the workloads.
        global_batch: Samples per iteration over all GPUs.
    """
    points = PUBLISHED.get(application, ())
    for batch, iterations in points:
        if batch == global_batch:
            return float(iterations)
    if len(points) < 2:
        return None
    nearest = sorted(sorted(points, key=lambda point: abs(math.log(point[0] / global_batch)))[:2])
    b1, n1 = nearest[1]
    return max(n1 + _slope(nearest) * (1 / global_batch - 1 / b1), 1.0)


def noise_scale_of(application: str) -> float:
    """Return an application's gradient noise scale in samples, B_noise = C/S_min, assumed constant during its training.

    It is fitted to the two largest published batches, because jobs of the workloads train with such batches.

    Raises:
        KeyError: Nothing is published about the application.
    """
    largest = PUBLISHED[application][-2:]
    slope = _slope(largest)
    b1, n1 = largest[1]
    return slope / (n1 - slope / b1)


def _slope(points: Sequence[tuple[int, int]]) -> float:
    """Return C of the curve N(B) = S_min + C/B through two points (batch, iterations), the smaller batch first."""
    (b0, n0), (b1, n1) = points
    return (n0 - n1) / (1 / b0 - 1 / b1)


def _job(row: Mapping[str, str], line: int, clock: Clock) -> TraceJob:
    application = text(row, "application").lower()
    batch = batch_size(row["batch_size"], "batch_size")
    if batch is None:
        raise Unusable("batch_size is empty")
    iterations = iterations_of(application, batch)
    if iterations is None:
        raise Unusable(f"the work of application {clip(application)} at batch {batch} is not published")
    return TraceJob(
        id=text(row, "name") or f"pollux-{line}",
        submit_s=seconds(row["time"], "time"),
        duration_s=math.nan,
        gpus=gpu_count(number(row["num_replicas"], "num_replicas")),
        model=application,
        global_batch=batch,
        iterations=iterations,
    )


POLLUX = csv_format(
    "pollux",
    "a Pollux or Sia workload",
    ("name", "time", "application", "num_replicas", "batch_size"),
    _job,
    notes=("no duration: work is the iterations that finish the application at its batch (Pollux artifact's figures)",),
)
