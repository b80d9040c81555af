"""What Prometheus scrapes: base units, joules that add up, and nothing that is not known."""

from __future__ import annotations

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from powerflow.api.governance import BudgetOrder, CapOrder, DrainOrder, SignalOrder
from powerflow.api.job_spec import JobSpec
from powerflow.api.records import Caller, Role
from powerflow.service.server import ApiServer
from tests.service.fake_cluster import FakeCluster
from tests.service.serving import bearer, service

Samples = dict[str, dict[frozenset[tuple[str, str]], float]]


@pytest.fixture
def cluster() -> FakeCluster:
    cluster = FakeCluster()
    for name in ('a"b\\c', "b"):
        spec = JobSpec(run="true", project="vision").model_copy(update={"name": name})
        cluster.submit(spec, Caller("ada", Role.USER))
    cluster.run("1", gpus=2, step_time_s=0.112, progress=0.25, energy_j=5000.0)
    cluster.set_budget(BudgetOrder(3.6e9, "day", "UTC", "vision"), Caller("ops", Role.OPERATOR))
    cluster.set_signal(SignalOrder("carbon", constant=360.0), Caller("ops", Role.OPERATOR))
    cluster.set_cap(CapOrder(watts=6e4, scope="rack:rack-0"), Caller("ops", Role.OPERATOR))
    return cluster


@pytest.fixture
def samples(cluster: FakeCluster) -> Samples:
    return scraped(cluster)


def scraped(cluster: FakeCluster) -> Samples:
    with ApiServer(service(cluster)) as server:
        answer = httpx.get(f"{server.url}/metrics", headers=bearer("viewer"), trust_env=False, verify=False)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    found: Samples = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return found


def one(samples: Samples, metric: str, /, **labels: str) -> float:
    matches = [value for held, value in samples[metric].items() if labels.items() <= dict(held).items()]
    assert len(matches) == 1, (metric, labels, samples[metric])
    return matches[0]


def gpus(samples: Samples) -> dict[str, float]:
    """How many GPUs are in each state."""
    return {dict(held)["state"]: value for held, value in samples["powerflow_gpus"].items()}


def test_joules_of_jobs_and_idle_are_what_was_metered(samples: Samples, cluster: FakeCluster) -> None:
    metered = sum(samples["powerflow_energy_joules_total"].values())
    assert metered == cluster.top().energy_j
    assert one(samples, "powerflow_energy_joules_total", account="jobs", emulated="true") == 5000.0
    assert sum(samples["powerflow_power_watts"].values()) == cluster.top().power_w
    assert sum(samples["powerflow_gpu_power_watts"].values()) == cluster.top().power_w


def test_units_are_base_units(samples: Samples) -> None:
    assert one(samples, "powerflow_gpu_clock_hertz", node="n1", gpu="0") == 1.11e9
    assert one(samples, "powerflow_job_clock_hertz", job_id="1") == 1.11e9
    assert one(samples, "powerflow_job_step_seconds", job_id="1") == 0.112
    assert one(samples, "powerflow_job_progress_ratio", job_id="1") == 0.25
    assert one(samples, "powerflow_decision_seconds") == 0.013


def test_counts(samples: Samples) -> None:
    states = ("queued", "running", "held", "completing")
    assert [one(samples, "powerflow_jobs", state=state) for state in states] == [1, 1, 0, 0]
    assert gpus(samples) == {"busy": 2, "free": 6, "out_of_service": 0, "node_not_up": 0}
    assert one(samples, "powerflow_healthy") == 1
    assert one(samples, "powerflow_build_info", version="1.2.3") == 1


def test_each_gpu_is_in_one_state(cluster: FakeCluster) -> None:
    cluster.drain("n2", DrainOrder(), Caller("ops", Role.OPERATOR))
    assert gpus(scraped(cluster)) == {"busy": 2, "free": 2, "out_of_service": 0, "node_not_up": 4}


def test_gpus_tell_who_holds_them_and_which_clock_was_asked(samples: Samples) -> None:
    assert [one(samples, "powerflow_gpu_busy", node="n1", gpu=str(gpu)) for gpu in range(4)] == [1, 1, 0, 0]
    assert one(samples, "powerflow_gpu_asked_clock_hertz", node="n1", gpu="1") == 1.11e9
    assert not any(dict(held)["gpu"] == "3" for held in samples["powerflow_gpu_asked_clock_hertz"])


def test_prices_and_caps(samples: Samples) -> None:
    assert one(samples, "powerflow_energy_price_seconds_per_joule") == 0.002
    assert one(samples, "powerflow_gpu_price", gpu_type="A100") == 0.64
    assert one(samples, "powerflow_cap_watts", scope="rack:rack-0", emulated="true") == 6e4
    assert one(samples, "powerflow_cap_power_watts", scope="rack:rack-0") == 400.0


def test_each_bucket_of_the_turns_counts_all_shorter_ones(samples: Samples) -> None:
    buckets = {bound: one(samples, "powerflow_turn_seconds_bucket", le=bound) for bound in ("0.01", "1.0", "+Inf")}
    assert buckets == {"0.01": 90, "1.0": 98, "+Inf": 100}
    assert one(samples, "powerflow_turn_seconds_count") == 100
    assert one(samples, "powerflow_turn_seconds_sum") == 7.5


def test_budgets_and_signals(samples: Samples) -> None:
    assert one(samples, "powerflow_budget_joules", project="vision", emulated="true") == 3.6e9
    assert one(samples, "powerflow_budget_spent_joules", project="vision") == 0.9e9
    assert one(samples, "powerflow_budget_limit_binds", project="vision") == 0
    assert one(samples, "powerflow_signal_per_joule", kind="carbon", fallback="false") == pytest.approx(1e-4)


def test_what_is_not_known_is_not_there(samples: Samples) -> None:
    assert "powerflow_job_model_error_ratio" not in samples
    assert not any(dict(held)["gpu"] == "3" for held in samples["powerflow_gpu_locked_clock_hertz"])


def test_names_are_escaped(samples: Samples) -> None:
    assert one(samples, "powerflow_job_gpus", name='a"b\\c', user="ada", project="vision") == 2


def test_open_metrics_need_no_token(cluster: FakeCluster) -> None:
    with ApiServer(service(cluster, open_metrics=True)) as server:
        assert httpx.get(f"{server.url}/metrics", trust_env=False, verify=False).status_code == 200
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        answer = httpx.get(f"{server.url}/metrics", headers=accept, trust_env=False, verify=False)
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        assert answer.text.endswith("# EOF\n")
        assert httpx.get(f"{server.url}/api/v1/top", trust_env=False, verify=False).status_code == 401
