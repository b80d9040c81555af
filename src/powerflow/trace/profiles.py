"""Define the cluster profiles that come with PowerFlow. Two were fitted to traces, one to published statistics."""

from __future__ import annotations

from powerflow.trace.profile import Arrivals, Component, Profile

PHILLY = Profile(
    name="philly",
    source="Microsoft Philly 2017 (Jeon et al., ATC'19), fitted to the 82,247 jobs of petuum/adaptdl's table",
    size_share={1: 0.93167, 2: 0.0221, 4: 0.02274, 8: 0.01998, 16: 0.0025, 32: 0.0009, 64: 0.00007, 128: 0.00004},
    durations={
        1: (Component(0.1865, 64.7, 0.172), Component(0.5992, 1327.1, 1.963), Component(0.2143, 2032.5, 0.509)),
        2: (Component(0.6437, 18.1, 0.344), Component(0.184, 43.8, 1.453), Component(0.1723, 88981.1, 1.241)),
        4: (Component(0.2802, 206.6, 1.133), Component(0.5507, 27955.2, 1.667), Component(0.1691, 117381.8, 0.425)),
        8: (Component(0.3189, 503.5, 1.577), Component(0.2486, 15224.5, 0.783), Component(0.4325, 198390.1, 0.819)),
        16: (Component(0.5395, 715.1, 2.474), Component(0.105, 54461.0, 0.129), Component(0.3555, 156483.5, 0.885)),
    },
    arrivals=Arrivals(3.83, 563, 8.6, 0.44, 0.29, 5.0, 0.52, 1.45, 0.95),
)

ITP = Profile(
    name="itp",
    source="Microsoft ITP (elasticflow-traces), fitted to the 5,778 jobs of cluster02",
    size_share={1: 0.85445, 2: 0.01765, 4: 0.05209, 8: 0.06092, 16: 0.00623, 32: 0.00623, 64: 0.00242},
    durations={
        1: (Component(0.129, 852.0, 0.224), Component(0.3653, 3416.7, 0.633), Component(0.5057, 18563.5, 1.104)),
        2: (Component(0.2209, 1403.1, 0.706), Component(0.3676, 10869.9, 0.262), Component(0.4115, 40766.4, 1.305)),
        4: (Component(0.1162, 1272.5, 0.337), Component(0.5372, 14533.4, 0.668), Component(0.3466, 90756.0, 0.82)),
        8: (Component(0.3095, 4561.4, 1.166), Component(0.2607, 5252.6, 0.241), Component(0.4299, 24365.2, 1.561)),
        16: (Component(0.2344, 1517.1, 0.372), Component(0.5861, 41682.5, 1.325), Component(0.1796, 67435.8, 0.1)),
    },
    arrivals=Arrivals(1.92, 85, 14.5, 0.66, 0.24, 23.2, 1.0, 1.55, 0.57),
)

# Hu et al., SC'21: the artifact's cluster summary gives, over 1,580,464 GPU jobs of four clusters, a median duration of
# 206 s, a mean of 6,652 s, 3.716 GPUs per job (median 1), and 49,351 GPU-seconds per job. Nothing is published on the
# relation of sizes and durations or on arrivals: we chose both so that these numbers hold.
_HELIOS_SHORT = Component(0.7, 97.0, 1.3)

HELIOS = Profile(
    name="helios",
    source="SenseTime Helios 2020 (Hu et al., SC'21), calibrated on its published medians and means",
    size_share={1: 0.58, 2: 0.12, 4: 0.08, 8: 0.17, 16: 0.033, 32: 0.013, 64: 0.004},
    durations={
        1: (_HELIOS_SHORT, Component(0.3, 6070.0, 1.3)),
        2: (_HELIOS_SHORT, Component(0.3, 8366.0, 1.3)),
        4: (_HELIOS_SHORT, Component(0.3, 9800.0, 1.3)),
        8: (_HELIOS_SHORT, Component(0.3, 12660.0, 1.3)),
        16: (_HELIOS_SHORT, Component(0.3, 36700.0, 1.3)),
    },
    arrivals=Arrivals(2.5, 200, 10.0, 0.5, 0.4, 16.0, 0.7, 1.2, 0.8),
)

PROFILES: dict[str, Profile] = {profile.name: profile for profile in (PHILLY, HELIOS, ITP)}
