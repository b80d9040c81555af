"""Small measured files, in the forms that the tools write, of one run with known costs.

One step takes 0.5 s on two GPUs, which then draw 300 W each at 1410 MHz. Time in seconds from 1 January 2026 (UTC):
0 to 20 the GPUs are idle at 60 W and 210 MHz; from 20 on they train, 40 steps in 20 s; from 40 to 100 nothing moves (an
evaluation at 150 W); from 100 to 160 they train again, 120 steps. The first 10 s of the first phase are slow (1 s a
step, 200 W), so at 40 s there are 30 steps, and at 160 s 150.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

START_S = 1767225600  # 2026-01-01 00:00 UTC
IDLE_W, EVALUATION_W, SLOW_W, TRAIN_W = 60.0, 150.0, 200.0, 300.0
TRAIN_MHZ, IDLE_MHZ = 1410.0, 210.0
STEP_S = 0.5
END_S = 160
GPUS = ("0", "1")


def watts(at_s: float) -> float:
    """Watts of one GPU in the second that ends at a moment."""
    if at_s <= 20:
        return IDLE_W
    if at_s <= 30:
        return SLOW_W
    return TRAIN_W if at_s <= 40 or at_s > 100 else EVALUATION_W


def joules(at_s: int) -> float:
    """Joules of one GPU since the start."""
    return sum(watts(second + 1) for second in range(at_s))


def steps(at_s: int) -> int:
    """Steps since the start."""
    slow, quick = min(max(at_s - 20, 0), 10), min(max(at_s - 30, 0), 10) + max(at_s - 100, 0)
    return int(slow + quick / STEP_S)


def busy(at_s: float) -> float:
    """Utilisation in percent: an evaluation keeps the GPUs busy, too."""
    return 0.0 if at_s <= 20 else 97.0


def clock(at_s: float) -> float:
    """Clock in MHz."""
    return IDLE_MHZ if at_s <= 20 else TRAIN_MHZ


def plain_watts(at_s: float) -> float:
    """Watts of one GPU in a run without an evaluation: 20 s idle, 5 s slow, and then training."""
    return IDLE_W if at_s <= 20 else SLOW_W if at_s <= 25 else TRAIN_W


def nvidia_smi(until_s: int = 60, *, units: bool = True, gpus: Sequence[str] = GPUS) -> str:
    """What ``nvidia-smi --query-gpu=… --format=csv -l 1`` writes, of `plain_watts`."""
    w, mhz, percent = (" W", " MHz", " %") if units else ("", "", "")
    lines = ["timestamp, index, name, power.draw [W], clocks.current.sm [MHz], utilization.gpu [%], power.limit [W]"]
    for second in range(1, until_s + 1):
        for gpu in gpus:
            moment = datetime.fromtimestamp(START_S + second, UTC) + timedelta(milliseconds=2 * int(gpu))
            lines.append(
                f"{moment:%Y/%m/%d %H:%M:%S}.{moment.microsecond // 1000:03}, {gpu}, NVIDIA A100-SXM4-80GB, "
                f"{plain_watts(second):.2f}{w}, {clock(second):.0f}{mhz}, "
                f"{busy(second):.0f}{percent}, 400.00{w}"
            )
    return "\n".join(lines) + "\n"


def dcgmi(until_s: int = 60, *, times: bool = False) -> str:
    """What ``dcgmi dmon -e 155,156,100,203 -d 1000`` prints."""
    head = (
        "#Entity   POWER             TOTEC                   SMCLK        GPUTL             \n"
        "ID         W                 mJ                                                    \n"
    )
    lines = []
    for second in range(1, until_s + 1):
        if second % 15 == 1:
            lines.append(head)
        total_j = sum(plain_watts(s) for s in range(1, second + 1))
        for gpu in GPUS:
            time = f"{START_S + second}.000 " if times else ""
            lines.append(
                f"{time}{f'GPU {gpu}':<10}{f'{plain_watts(second):.3f}':<18}"
                f"{f'{1000 * total_j:.0f}':<24}"
                f"{clock(second):<13.0f}{busy(second):<18.0f}\n"
            )
    return "".join(lines)


def answer(metric: str, of: Callable[[int], float], end_s: int = END_S, /, **labels: str) -> dict[str, object]:
    """A series of an answer of Prometheus, every 5 s; ``of`` is a function of seconds since the start."""
    values = [[START_S + second, str(of(second))] for second in range(0, end_s + 1, 5)]
    return {"metric": {"__name__": metric, **labels}, "values": values}


def matrix(*series: object) -> str:
    return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": series}})


def prometheus() -> str:
    """Answers with watts, energy, clock and steps; two documents in one file."""
    series = []
    for gpu in GPUS:
        labels = {"gpu": gpu, "UUID": f"GPU-{gpu}", "Hostname": "n1", "modelName": "NVIDIA A100-SXM4-80GB"}
        series += [
            answer("DCGM_FI_DEV_POWER_USAGE", watts, **labels),
            answer("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", lambda s: 1000 * (joules(s) + 5e6), **labels),
            answer("DCGM_FI_DEV_SM_CLOCK", clock, **labels),
        ]
    return matrix(*series) + "\n" + matrix(answer("train_steps_total", steps, instance="n1:8000"))


def wandb_history() -> str:
    """What ``run.history().to_csv()`` writes of a script that logs every ten steps."""
    lines = [",_step,loss,train/global_step,_runtime,_timestamp"]
    logged = [
        second for second in range(21, END_S + 1) if steps(second) % 10 == 0 and steps(second) > steps(second - 1)
    ]
    for row, second in enumerate(logged):
        lines.append(f"{row},{row},0.5,{steps(second)},{second},{START_S + second}")
    return "\n".join(lines) + "\n"


def wandb_events() -> str:
    """What ``run.history(stream="events").to_csv()`` writes: three GPUs, of which the run uses two."""
    columns = [f"system.gpu.{gpu}.{name}" for gpu in (*GPUS, "2") for name in ("powerWatts", "smClock", "gpu")]
    columns += [f"system.gpu.process.{gpu}.powerWatts" for gpu in GPUS]
    lines = ["," + ",".join([*columns, "_runtime", "_timestamp", "_wandb"])]
    for row, second in enumerate(range(5, END_S + 1, 5)):
        mine = [f"{watts(second)},{clock(second)},{busy(second)}" for _ in GPUS]
        process = [str(watts(second)) if second > 20 else "" for _ in GPUS]
        lines.append(f"{row},{','.join([*mine, '60.0,210,0', *process])},{second},{START_S + second},True")
    return "\n".join(lines) + "\n"


def wandb_jsonl() -> str:
    """One object a line, steps and system metrics in one file."""
    rows: list[tuple[int, dict[str, object]]] = []
    for second in range(5, END_S + 1, 5):
        rows.append((second, {"system.gpu.0.powerWatts": watts(second), "system.gpu.0.smClock": clock(second)}))
        rows.append((second, {"_step": steps(second), "loss": None}))
    return "".join(
        json.dumps({**row, "_timestamp": START_S + second, "_runtime": second}) + "\n" for second, row in rows
    )


ZEUS_WINDOWS = """start_time,window_name,elapsed_time,gpu0_energy,gpu1_energy
100.0,step,2.0,900.0,900.0
102.0,step,0.5,150.0,150.0
102.5,step,0.5,150.0,150.0
103.0,step,0.5,150.0,150.0
103.5,step,4.0,400.0,400.0
107.5,step,0.5,150.0,150.0
108.0,step,0.001,0.0,0.0
"""
ZEUS_OPTIMIZER = """start_time,window_name,elapsed_time,gpu0_energy
100.0,__GlobalPowerLimitOptimizer_300,20.0,5000.0
130.0,__GlobalPowerLimitOptimizer_150,40.0,6000.0
"""
ZEUS_LIMITS = """dataset,network,batch_size,optimizer,power_limit,time_per_epoch,average_power
cifar100,shufflenetv2,100,adam,250,50.0,180.0
cifar100,shufflenetv2,100,adam,100,80.0,95.0
"""
CODECARBON_HEAD = (
    "timestamp,project_name,run_id,duration,emissions,emissions_rate,cpu_power,gpu_power,ram_power,cpu_energy,"
    "gpu_energy,ram_energy,energy_consumed,country_name,country_iso_code,region,cloud_provider,cloud_region,os,"
    "python_version,codecarbon_version,cpu_count,cpu_model,gpu_count,gpu_model,longitude,latitude,ram_total_size,"
    "tracking_mode,on_cloud,pue\n"
)


def codecarbon(rows: Sequence[tuple[str, str, float, float]], *, gpus: int = 8) -> str:
    """Rows of (end, run id, duration in s, kWh of GPUs)."""
    return CODECARBON_HEAD + "".join(
        f"{end},train,{run},{duration},1.0,0.001,112.5,3893.2,188.9,0.1,{kwh},0.2,1.0,,,,,,Linux-5.14,3.10.12,2.3.3,128,"
        f"AMD EPYC 7713,{gpus},{gpus} x NVIDIA A100-SXM4-80GB,7.0,50.7,503.710330,machine,N,1.0\n"
        for end, run, duration, kwh in rows
    )
