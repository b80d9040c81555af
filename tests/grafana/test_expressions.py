"""The dashboard and the alerts ask for what a controller exports, under the names and labels that it exports."""

from __future__ import annotations

from itertools import product

import pytest
from prometheus_client.parser import text_string_to_metric_families

from powerflow.api.governance import BudgetOrder, CapOrder, SignalOrder
from powerflow.service.metrics import exposition
from tests.grafana.expressions import Expression, dashboard, expressions
from tests.live.controller_bench import ROOT, Bench

#: Labels that Prometheus gives to what it scrapes, and its own metric.
OF_PROMETHEUS = {"instance", "job"}
Exported = dict[str, set[str]]
each = pytest.mark.parametrize("expression", expressions(), ids=lambda each: each.where)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Names of all samples of a controller with a job, a budget, a cap and a signal, with the labels of each."""
    bench = Bench(tmp_path_factory.mktemp("bench"), energy_price=0.001)
    bench.steps_total = 10_000
    bench.service.set_budget(BudgetOrder(1e9, "day", "UTC", "", sure=True), ROOT)
    bench.service.set_cap(CapOrder(watts=60e3), ROOT)
    bench.service.set_signal(SignalOrder("tariff", constant=0.3), ROOT)
    bench.submit(gpus=2)
    bench.until(lambda: bench.service.top().jobs[0].model_error is not None)
    text = exposition(bench.service, "1", "")[0].decode()
    bench.close()
    found: Exported = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@each
def test_every_metric_and_label_is_exported(expression: Expression, exported: Exported) -> None:
    known = {"up": set(), **exported}
    assert expression.metrics
    assert expression.metrics <= known.keys()
    labels = set[str]().union(*(known[name] for name in expression.metrics))
    assert expression.labels <= labels | OF_PROMETHEUS


def test_no_label_collides_with_those_of_prometheus(exported: Exported) -> None:
    assert not {name for name, labels in exported.items() if labels & OF_PROMETHEUS}


def test_every_metric_of_the_cluster_is_on_the_dashboard_or_left_out_on_purpose(exported: Exported) -> None:
    shown = set[str]().union(*(expression.metrics for expression in expressions()))
    # parts of a histogram; totals that accounts need; numbers of a single job or GPU, for questions of one's own
    left_out = {"powerflow_turn_seconds_sum", "powerflow_turn_seconds_count", "powerflow_build_info"}
    left_out |= {"powerflow_energy_joules_total", "powerflow_budget_limit_binds"}
    left_out |= {"powerflow_gpu_power_watts", "powerflow_gpu_utilisation_ratio"}
    left_out |= {f"powerflow_job_{name}" for name in ("energy_joules_total", "gpus", "step_seconds", "progress_ratio")}
    assert {name for name in exported if name.startswith("powerflow_")} - shown == left_out


def test_the_dashboard_has_the_shape_that_grafana_reads() -> None:
    """By its shape only: no Grafana has opened it."""
    board = dashboard()
    assert board["schemaVersion"] == 41
    assert board["id"] is None, "the id is Grafana's own, and would overwrite another dashboard"
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert [variables[name]["type"] for name in ("datasource", "instance")] == ["datasource", "query"]
    assert variables["datasource"]["query"] == "prometheus"
    source = {"type": "prometheus", "uid": "${datasource}"}
    assert variables["instance"]["datasource"] == source
    panels = board["panels"]
    assert [panel["id"] for panel in panels] == [*range(1, len(panels) + 1)]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["type"] in ("timeseries", "stat")
        assert panel["datasource"] == source
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"], "a number without a unit is a guess"
        assert panel["fieldConfig"].keys() == {"defaults", "overrides"}
        place = panel["gridPos"]
        across, down = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        cells = {*product(across, down)}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, f"{panel['title']} lies over another panel"
        taken |= cells
        assert [target["refId"] for target in panel["targets"]] == [*"ABCD"][: len(panel["targets"])]
        assert all(target["datasource"] == source for target in panel["targets"])
