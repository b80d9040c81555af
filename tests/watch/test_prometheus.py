"""GPUs' readings from stored samples, with the names and labels of several exporters."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from powerflow.errors import InputError
from powerflow.watch.owners import GpuAddress
from powerflow.watch.readings import Readings
from powerflow.watch.sources import prometheus
from powerflow.watch.sources.prometheus import MetricsSource
from powerflow.watch.sources.prometheus_api import Answer, TooMuch
from tests.watch.samples import StoredSamples

#: Some moment: the time of all tests begins here.
T = 1_800_000_000.0
#: Labels of a series of dcgm-exporter 4.4, as the scraping Prometheus has completed them.
DCGM = (
    'gpu="0",UUID="GPU-a",pci_bus_id="00000000:8D:00.0",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",'
    'Hostname="n1",instance="10.0.0.1:9400",job="dcgm"'
)
N1 = GpuAddress("n1", 0)


def every(
    step_s: float, until_s: float, value: Callable[[float], float], since_s: float = 0.0
) -> list[tuple[float, float]]:
    """Samples at a fixed step; the value is a function of the seconds since `T`."""
    return [(T + at, value(at)) for at in np.arange(since_s, until_s, step_s)]


def dcgm(samples: list[tuple[float, float]], labels: str = DCGM, **more: str) -> StoredSamples:
    """The energy counter of one GPU, in joules."""
    in_mj = [(at, 1000 * joules) for at, joules in samples]
    return StoredSamples().add(f"DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{{labels}}}", in_mj, **more)


def read(store: StoredSamples, since_s: float = 0.0, until_s: float = 60.0, node_label: str = "") -> Readings:
    return MetricsSource(store, node_label).read(T + since_s, T + until_s)


def timer() -> Callable[[], float]:
    """A clock on which half an hour has passed at each look."""
    return iter(np.arange(0.0, 1e9, 1800.0)).__next__


@pytest.mark.parametrize(
    ("names", "values"),
    [
        (
            "TOTAL_ENERGY_CONSUMPTION POWER_USAGE SM_CLOCK GPU_UTIL SM_ACTIVE DRAM_ACTIVE POWER_MGMT_LIMIT",
            [5e6, 312.5, 1980, 97, 0.8, 0.4, 700],
        ),
        (
            "GPU_ENERGY_JOULES_TOTAL BOARD_POWER_WATTS SM_CLOCK_HERTZ GPU_UTIL_RATIO SM_UTIL_RATIO DRAM_UTIL_RATIO"
            " ENFORCED_POWER_LIMIT",
            [5000, 312.5, 1.98e9, 0.97, 0.8, 0.4, 700],
        ),
    ],
)
def test_names_and_units_of_dcgm_exporter_before_and_since_4_9(names: str, values: list[float]) -> None:
    store = StoredSamples()
    for name, value in zip(names.split(), values, strict=True):
        prefix = "DCGM_FI_PROF_" if name.startswith(("SM_A", "SM_U", "DRAM")) else "DCGM_FI_DEV_"
        store.add(f"{prefix}{name}{{{DCGM}}}", [(T + 20, value)])
    found = read(store)
    series = found.series[N1]
    assert (series.time_s.tolist(), series.energy_j.tolist()) == ([T + 20], [5000])
    assert [series.power_w[0], series.clock_mhz[0], series.utilisation[0]] == pytest.approx([312.5, 1980, 0.97])
    assert (series.sm_active[0], series.memory_active[0]) == (0.8, 0.4)
    card = found.cards[N1]
    assert (card.uuid, card.vendor_name, card.limit_w) == ("GPU-a", "NVIDIA H100 80GB HBM3", 700)
    assert not card.emulated
    assert found.owners is None


def test_nvidia_gpu_exporter_names_its_gpus_in_a_series_of_its_own() -> None:
    own = 'instance="n7.site.org:9835",job="smi",uuid="df6e-71"'
    store = StoredSamples()
    store.add(f"nvidia_smi_energy_joules_total{{{own}}}", every(15, 60, lambda at: 100 * at))
    store.add(f"nvidia_smi_power_draw_watts{{{own}}}", every(15, 60, lambda at: 100.0))
    store.add(f"nvidia_smi_clocks_current_sm_clock_hz{{{own}}}", every(15, 60, lambda at: 1.2e9))
    store.add(f'nvidia_smi_gpu_info{{{own},index="3",name="NVIDIA L40S"}}', every(15, 60, lambda at: 1.0))
    found = read(store)
    (gpu,) = found.series
    assert (str(gpu), found.cards[gpu].uuid, found.cards[gpu].vendor_name) == ("n7:3", "GPU-df6e-71", "NVIDIA L40S")
    assert found.series[gpu].energy_j.tolist() == [1500, 3000, 4500]
    assert found.series[gpu].clock_mhz[0] == pytest.approx(1200)
    assert found.lag_s == 2.0  # it reads the GPUs when it is asked


def test_exporters_without_an_energy_counter_give_power_alone() -> None:
    store = StoredSamples()
    labels = 'instance="n2:9445",job="gpu",minor_number="5",ordinal="1",uuid="GPU-b",name="Tesla V100"'
    store.add(f"nvidia_gpu_power_usage_milliwatts{{{labels}}}", every(30, 60, lambda at: 250_000.0))
    store.add(
        'powerflow_gpu_power_watts{node="n3",gpu="1",gpu_type="A100",emulated="true",instance="ctl:8080",job="pf"}',
        every(30, 60, lambda at: 75.0),
    )
    found = read(store)
    assert {str(gpu): series.power_w.tolist() for gpu, series in found.series.items()} == {"n2:5": [250], "n3:1": [75]}
    assert all(np.isnan(series.energy_j).all() for series in found.series.values())
    assert [card.emulated for _, card in sorted(found.cards.items())] == [False, True]


def test_a_counter_that_stays_at_zero_is_none() -> None:
    store = dcgm(every(15, 60, lambda at: 0.0))
    store.add(f"DCGM_FI_DEV_POWER_USAGE{{{DCGM}}}", every(15, 60, lambda at: 40.0))
    series = read(store).series[N1]
    assert np.isnan(series.energy_j).all()
    assert series.power_w.tolist() == [40, 40, 40]


def test_values_that_dcgm_writes_for_what_it_lacks_are_dropped() -> None:
    store = dcgm(every(15, 60, lambda at: at))
    store.add(f"DCGM_FI_DEV_POWER_USAGE{{{DCGM}}}", every(15, 60, lambda at: 9223372036854775794.0))
    store.add(f"DCGM_FI_DEV_SM_CLOCK{{{DCGM}}}", every(15, 60, lambda at: 2147483632.0))
    store.add(f"DCGM_FI_DEV_GPU_UTIL{{{DCGM}}}", every(15, 60, lambda at: -1.0))
    store.add(f"DCGM_FI_PROF_SM_ACTIVE{{{DCGM}}}", every(15, 60, lambda at: float("nan")))
    series = read(store).series[N1]
    assert len(series) == 3
    assert np.isnan([*series.power_w, *series.clock_mhz, *series.sm_active, *series.utilisation]).all()


def test_a_label_that_changes_does_not_cut_a_gpu_in_two() -> None:
    store = dcgm(every(15, 45, lambda at: 100 * at, 15), f'{DCGM},hpc_job="7"')
    store.series += dcgm(every(15, 90, lambda at: 100 * at, 45)).series
    assert read(store, until_s=90).series[N1].energy_j.tolist() == [1500, 3000, 4500, 6000, 7500]


def test_the_device_names_the_number_before_the_index() -> None:
    labels = DCGM.replace('device="nvidia0"', 'device="nvidia6"')
    assert {*read(dcgm(every(15, 60, lambda at: at), labels)).series} == {GpuAddress("n1", 6)}
    labels = DCGM.replace('device="nvidia0",', "")
    assert {*read(dcgm(every(15, 60, lambda at: at), labels)).series} == {N1}


def test_mig_instances_share_one_counter_which_counts_once() -> None:
    store = StoredSamples()
    for number, ahead_j in ((7, 0.0), (8, 0.5)):  # they are read one after another
        labels = f'{DCGM},GPU_I_PROFILE="1g.10gb",GPU_I_ID="{number}",hpc_job="{number}"'
        store.series += dcgm([(T + at, 100 * at + ahead_j) for at in (0.0, 15.0, 30.0, 45.0)], labels).series
        store.add(f"DCGM_FI_PROF_SM_ACTIVE{{{labels}}}", every(15, 60, lambda at: 0.9))
    found = read(store)
    assert found.series[N1].energy_j.tolist() == [1500.5, 3000.5, 4500.5]
    assert np.isnan(found.series[N1].sm_active).all()  # what one instance does says nothing of the GPU
    assert any("1 GPUs are shared as MIG instances" in note for note in found.notes)
    assert found.owners is not None
    assert {(each.job, each.gpu) for each in found.owners.holdings} == {("job:7", N1), ("job:8", N1)}


def test_a_gpu_that_is_scraped_twice_counts_once() -> None:
    store = dcgm(every(15, 90, lambda at: 100 * at), prometheus_replica="a")
    store.series += dcgm(every(15, 90, lambda at: 100 * at - 70, 7), prometheus_replica="b").series
    store.series += dcgm(every(15, 90, lambda at: 100 * at - 90, 2), DCGM.replace('"dcgm"', '"again"')).series
    found = read(store, until_s=90)
    assert {*np.diff(found.series[N1].time_s)} == {15}
    assert any("1 GPUs are scraped more than once" in note for note in found.notes)


def test_where_one_scraper_has_a_gap_the_other_one_is_taken() -> None:
    """As when the exporter's pod gets another address. Near each other they do not mix: one may be later."""
    store = dcgm(every(15, 100, lambda at: 100 * at, 10))
    store.series += dcgm(every(15, 305, lambda at: 100 * at, 105), DCGM.replace("10.0.0.1", "10.0.0.9")).series
    found = read(store, until_s=305)
    assert (found.series[N1].time_s - T).tolist() == [10, 25, 40, 55, *range(105, 305, 15)]
    assert not found.notes


def test_the_scraper_that_was_used_is_used_again() -> None:
    """Another one may be later or earlier, so that its counter would seem to go back."""
    store = dcgm(every(15, 300, lambda at: 100 * at))
    store.series += dcgm(every(15, 300, lambda at: 100 * at - 2000, 67), DCGM.replace('"dcgm"', '"another"')).series
    source = MetricsSource(store, clock=timer())
    looks = [source.read(T + end - 60, T + end).series[N1] for end in range(60, 301, 60)]
    assert np.concatenate([each.time_s - T for each in looks]).tolist() == [*range(15, 300, 15)]


def test_the_same_gpu_under_two_node_names_counts_once() -> None:
    """Another exporter reads it too, and its host name is not told."""
    store = dcgm(every(15, 60, lambda at: 100 * at))
    store.add(
        'nvidia_smi_power_draw_watts{uuid="a",instance="10.0.0.1:9835",job="smi"}', every(15, 60, lambda at: 100.0)
    )
    store.add(
        'nvidia_smi_gpu_info{uuid="a",index="0",instance="10.0.0.1:9835",job="smi"}', every(15, 60, lambda at: 1.0)
    )
    assert {*read(store).series} == {N1}


def test_the_pod_of_the_exporter_is_not_the_node() -> None:
    labels = DCGM.replace('Hostname="n1"', 'Hostname="nvidia-dcgm-exporter-x7k2p",node="N1.cluster.local"')
    assert {*read(dcgm(every(15, 60, lambda at: at), labels)).series} == {N1}
    labels = DCGM.replace('Hostname="n1"', 'Hostname="dcgm-exporter-6ldbb"')
    assert {*read(dcgm(every(15, 60, lambda at: at), labels)).series} == {GpuAddress("10.0.0.1", 0)}


def test_a_label_of_the_users_choice_names_the_node() -> None:
    store = dcgm(every(15, 60, lambda at: at), f'{DCGM},rack_host="R7.site"')
    assert {*read(store, node_label="rack_host").series} == {GpuAddress("r7", 0)}
    with pytest.raises(InputError, match=r"no metric of a GPU has the label nodename; .*rack_host"):
        read(store, node_label="nodename")


def test_nodes_of_one_name_are_told_apart_by_where_they_are_scraped() -> None:
    store = dcgm(every(15, 60, lambda at: at), DCGM.replace("n1", "localhost"))
    other = DCGM.replace("n1", "localhost").replace("GPU-a", "GPU-b").replace("10.0.0.1", "10.0.0.2")
    store.series += dcgm(every(15, 60, lambda at: at), other).series
    third = other.replace("GPU-b", "GPU-c").replace('nvidia0"', 'nvidia1"')  # of a number that only one node has
    store.series += dcgm(every(15, 60, lambda at: at), third).series
    found = read(store)
    assert {str(gpu) for gpu in found.series} == {"10.0.0.1:0", "10.0.0.2:0", "10.0.0.2:1"}
    assert any("several nodes have the same host name" in note for note in found.notes)


def test_gpus_that_cannot_be_told_apart_are_left_out_and_said() -> None:
    store = dcgm(every(15, 60, lambda at: at))
    store.series += dcgm(every(15, 60, lambda at: at), DCGM.replace("GPU-a", "GPU-b")).series
    found = read(store)
    assert len(found.series) == 1
    assert any("2 GPUs are called 10.0.0.1:0" in note and "--node-label" in note for note in found.notes)


def test_gpus_without_number_or_node_are_left_out_and_said() -> None:
    store = dcgm(every(15, 60, lambda at: at))
    store.series += dcgm(every(15, 60, lambda at: at), 'UUID="GPU-x",Hostname="n1"').series
    found = read(store)
    assert {*found.series} == {N1}
    assert any("1 GPUs have no number or node" in note for note in found.notes)


def test_each_reading_comes_once_also_one_that_is_stored_late() -> None:
    store = dcgm(every(15, 600, lambda at: 100 * at))
    store.series += dcgm(
        every(15, 600, lambda at: 100 * at, 7), DCGM.replace("n1", "n2").replace("GPU-a", "GPU-b")
    ).series
    store.series[1] = (store.series[1][0], [(at, value, at + 9.0) for at, value, _ in store.series[1][1]])
    source = MetricsSource(store, clock=timer())
    times: dict[GpuAddress, list[float]] = {}
    for end in range(30, 601, 30):
        for gpu, series in source.read(T + end - 30, T + end).series.items():
            times.setdefault(gpu, []).extend(series.time_s - T)
    assert times[N1] == [*range(15, 600, 15)]
    assert times[GpuAddress("n2", 0)] == [*range(7, 592, 15)]
    assert len(store.asked) == 20
    assert {round(end - begin) for begin, end in store.asked[1:]} <= {*range(105, 125)}


def test_no_look_comes_within_30_seconds_of_the_one_before() -> None:
    store = dcgm(every(5, 100, lambda at: 100 * at), f'{DCGM},hpc_job="7"')
    times = iter([0.0, 5.0, 28.0, 29.5, 58.0, 60.0])
    source = MetricsSource(store, clock=times.__next__)
    found = [source.read(T + since, T + since + 10) for since in range(0, 60, 10)]
    assert [end - T for _, end in store.asked] == [10, 40, 60]
    assert [len(each.series.get(N1, ())) for each in found] == [2, 0, 0, 6, 0, 4]
    assert found[1].cards == found[0].cards
    assert found[1].owners == found[0].owners is not None


def test_a_look_that_fails_loses_nothing_and_counts_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    store = dcgm(every(15, 200, lambda at: 100 * at))
    times = iter([0.0, 40.0, 45.0, 80.0])
    source = MetricsSource(store, clock=times.__next__)
    source.read(T, T + 30)
    with monkeypatch.context() as patch:
        patch.setattr(store, "ask", refusing)
        with pytest.raises(InputError, match="gone"):
            source.read(T + 30, T + 70)
    assert not source.read(T + 70, T + 75).series
    assert (source.read(T + 75, T + 110).series[N1].time_s - T).tolist() == [45, 60, 75, 90, 105]


def refusing(query: str, at_s: float) -> Answer:
    raise InputError("gone", exit_code=5)


def test_history_is_read_in_steps_that_suit_the_number_of_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "CHUNK", 100)
    store = dcgm(every(15, 86_400, lambda at: 100 * at))
    found = read(store, until_s=86_400)
    assert (found.series[N1].time_s - T).tolist() == [*range(15, 86_400, 15)]
    lengths = [end - begin for begin, end in store.asked]
    assert max(lengths) < 15 * 150
    assert len(store.asked) < 70
    assert all(
        after == pytest.approx(before) for (_, before), (after, _) in zip(store.asked, store.asked[1:], strict=False)
    )


def test_a_request_that_is_too_much_is_halved_for_history_and_refused_for_a_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = dcgm(every(15, 7200, lambda at: 100 * at))
    answer = store.ask

    def limited(query: str, at_s: float) -> Answer:
        found = answer(query, at_s)
        begin, end = store.asked[-1]
        if end - begin > 100:
            raise TooMuch("query processing would load too many samples", where="Prometheus", exit_code=5)
        return found

    monkeypatch.setattr(store, "ask", limited)
    assert len(read(store, until_s=7200).series[N1]) == 479
    with pytest.raises(InputError, match="too many samples"):
        read(store, until_s=60)


def test_a_call_that_goes_back_in_time_begins_anew() -> None:
    store = dcgm(every(15, 3000, lambda at: 100 * at))
    source = MetricsSource(store, clock=timer())
    assert len(source.read(T, T + 60).series[N1]) == 4
    source.read(T + 60, T + 2400)
    assert (source.read(T, T + 60).series[N1].time_s - T).tolist() == [15, 30, 45, 60]


@pytest.mark.parametrize(
    ("scrape_s", "exporter_s", "lag_s"),
    [(15.0, 30.0, 15.0), (10.0, 60.0, 10.0), (30.0, 30.0, 30.0), (120.0, 30.0, 30.0)],
)
def test_how_old_a_reading_may_be(scrape_s: float, exporter_s: float, lag_s: float) -> None:
    """An exporter that repeats its values shows a new one at the first scrape; else it may be 30 s old."""
    store = dcgm(every(scrape_s, 1200, lambda at: 100 * (at // exporter_s * exporter_s)))
    source = MetricsSource(store, clock=timer())
    times = []
    for end in range(60, 1201, 30):
        found = source.read(T + end - 30, T + end)
        assert found.lag_s == lag_s
        times += [*(found.series[N1].time_s - T)] if found.series else []
    step_s = max(scrape_s, exporter_s)
    assert {*np.diff(times)} == {step_s}
    assert times[0] <= 30 + step_s
    assert times[-1] >= 1200 - step_s


def test_an_exporter_that_hangs_is_said() -> None:
    store = dcgm(every(15, 900, lambda at: 100 * min(at, 300.0)))
    source = MetricsSource(store, clock=timer())
    notes = [source.read(T + end - 30, T + end).notes for end in range(30, 901, 30)]
    assert not notes[15]
    assert any("counters of 1 GPUs stand still" in note for note in notes[-1])


def test_the_limit_is_kept_while_it_is_not_reported() -> None:
    store = dcgm(every(15, 200, lambda at: 100 * at))
    store.add(f"DCGM_FI_DEV_POWER_MGMT_LIMIT{{{DCGM}}}", [(T + 10, 500.0)])
    source = MetricsSource(store, clock=timer())
    assert source.read(T, T + 30).cards[N1].limit_w == 500
    assert source.read(T + 150, T + 180).cards[N1].limit_w == 500


def test_a_site_without_gpus_is_refused_but_an_outage_is_not() -> None:
    store = StoredSamples().add('up{job="node"}', every(15, 100, lambda at: 1.0))
    with pytest.raises(
        InputError, match=r"Prometheus at http://prom:9090: has no metrics of GPUs in the last 6 min; let"
    ):
        read(store)
    store = dcgm(every(15, 100, lambda at: 100 * at))
    source = MetricsSource(store, clock=timer())
    source.read(T, T + 60)
    assert source.read(T + 60, T + 500).series
    assert not source.read(T + 500, T + 1000).series


def test_a_clock_that_is_off_and_warnings_are_said() -> None:
    store = dcgm(every(15, 60, lambda at: at))
    store.warnings, store.ahead_s = ("a store did not answer",), -95.0
    assert read(store).notes == [
        "Prometheus: a store did not answer",
        "Prometheus: its clock is 1.58 min behind this machine's",
    ]


def test_samples_of_a_prometheus_whose_clock_is_behind_are_not_lost() -> None:
    store = dcgm(every(15, 900, lambda at: 100 * at))
    store.series = [(labels, [(at - 200, value, seen) for at, value, seen in mine]) for labels, mine in store.series]
    source = MetricsSource(store, clock=timer())
    times = [
        at - T + 200
        for end in range(60, 901, 30)
        for series in source.read(T + end - 30, T + end).series.values()
        for at in series.time_s
    ]
    assert times == [*range(240, 900, 15)]


@pytest.mark.parametrize(
    "series",
    [
        {"metric": {}, "values": [[T, "1"]]},
        {"values": [[T, "1"]]},
        {"metric": {"__name__": "DCGM_FI_DEV_POWER_USAGE"}, "values": [[T, "much"]]},
        {"metric": {"__name__": "DCGM_FI_DEV_POWER_USAGE"}, "values": [[T, "1", "2"], [T, "1"]]},
        {"metric": {"__name__": "DCGM_FI_DEV_POWER_USAGE", "gpu": ["0"]}, "values": [["now", "1"]]},
    ],
)
def test_a_damaged_answer_is_refused_in_one_line(series: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    store = StoredSamples()
    monkeypatch.setattr(store, "ask", lambda query, at_s: Answer([series], (), 0.0))
    with pytest.raises(InputError, match="Prometheus at http://prom:9090: its answer cannot be read; check"):
        read(store)


def test_a_gpu_without_a_reading_yet_is_named() -> None:
    """An exporter that repeats its values has shown one so far, and nobody knows how old it is."""
    other = DCGM.replace("GPU-a", "GPU-b").replace('nvidia0"', 'nvidia1"')
    store = dcgm(every(15, 300, lambda at: 100 * (at // 30 * 30)))
    store.series += dcgm(every(15, 300, lambda at: 500.0, 245), other).series
    found = MetricsSource(store).read(T + 240, T + 290)
    assert {*found.series} == {N1}
    assert {*found.cards} == {N1, GpuAddress("n1", 1)}
