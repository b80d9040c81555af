"""Signals on a live cluster: given, fetched, too old; they move the price of a joule, and accounts reckon with them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from powerflow.api.governance import SignalOrder
from powerflow.api.records import NotFound
from powerflow.energy.budget import Budget
from powerflow.energy.budgets import Budgets
from powerflow.energy.governor import Governor
from powerflow.energy.signal import constant
from powerflow.errors import InputError
from powerflow.live.governance.signals import POLL_S
from powerflow.store.models import Charge
from tests.live.controller_bench import ROOT, Bench
from tests.live.governance.test_budgets import run_for
from tests.live.governance.test_caps import JOB

KWH = 3.6e6


def csv(*steps: tuple[float, float]) -> str:
    return "time,value\n" + "".join(f"{time_s:.0f},{value}\n" for time_s, value in steps)


class Site(HTTPServer):
    """A web server of one page; none: it answers with HTTP status 503."""

    page = ""


class Pages(BaseHTTPRequestHandler):
    """Its answers."""

    def do_GET(self) -> None:
        page = self.server.page if isinstance(self.server, Site) else ""
        self.send_response(200 if page else 503)
        self.end_headers()
        self.wfile.write(page.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[Site]:
    with Site(("127.0.0.1", 0), Pages) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_signal_is_set_shown_dropped_audited_and_known_after_a_restart(bench: Bench) -> None:
    now_s = bench.controller.clock()
    text = csv((now_s - 7200, 0.2), (now_s - 3600, 0.4))
    record = bench.service.set_signal(SignalOrder("tariff", csv=text, source="prices.csv"), ROOT)
    assert (record.value, record.fell_back, record.source) == (0.4, "", "prices.csv")
    assert record.fallback == pytest.approx(0.3), "its mean, where none is given"
    bench.service.set_signal(SignalOrder("carbon", constant=380.0), ROOT)
    bench.restart()
    assert {signal.kind: signal.value for signal in bench.service.signals()} == {"tariff": 0.4, "carbon": 380.0}
    bench.engine.now_s += 3590.0  # nothing runs meanwhile
    run_for(bench, 70.0)
    tariff = bench.service.signals()[0]
    assert tariff.value == pytest.approx(0.3)
    assert "is 2.0 h old" in tariff.fell_back
    assert any("is 2.0 h old: 0.3 money/kWh is used" in notice for notice in bench.service.top().notices)
    bench.service.drop_signal("tariff", ROOT)
    with pytest.raises(NotFound):
        bench.service.drop_signal("tariff", ROOT)
    actions = [(entry.action, entry.target) for entry in bench.service.audit().items if "signal" in entry.action]
    assert actions == [("signal set", "tariff"), ("signal set", "carbon"), ("signal dropped", "tariff")]


@pytest.mark.parametrize(
    ("order", "said"),
    [
        (SignalOrder("tariff"), "one of the three"),
        (SignalOrder("tariff", csv="time,value\n1,2\n", constant=1.0), "one of the three"),
        (SignalOrder("carbon", csv="time,value\n1,-2\n", source="x.csv"), "x.csv:2"),
        (SignalOrder("carbon", constant=-1.0), "carbon"),
        (SignalOrder("tariff", url="http://127.0.0.1:9/none"), "cannot be read .*; give an address that answers"),
        (SignalOrder("tariff", url="http://a..b/x"), "cannot be read"),
    ],
)
def test_what_is_no_signal_is_refused_and_changes_nothing(bench: Bench, order: SignalOrder, said: str) -> None:
    with pytest.raises(InputError, match=said):
        bench.service.set_signal(order, ROOT)
    assert bench.service.signals() == []


def test_it_moves_the_price_of_a_joule(tmp_path: Path) -> None:
    bench = Bench(tmp_path, energy_price=0.01)
    now_s = bench.controller.clock()
    text = csv((now_s - 86_400, 0.1), (now_s - 1, 0.3), (now_s + 300, 0.05))
    bench.service.set_signal(SignalOrder("tariff", csv=text, max_age_s=1e6), ROOT)
    run_for(bench, 70.0)
    dear = bench.controller.scheduler.energy_price
    assert dear == pytest.approx(0.01 * 0.3 / 0.1, rel=0.01), "three times its mean over the last week"
    run_for(bench, 300.0)
    assert bench.controller.scheduler.energy_price < 0.3 * dear
    bench.service.set_signal(SignalOrder("tariff", csv=text, max_age_s=1e6, weight=0.0), ROOT)
    run_for(bench, 70.0)
    assert bench.controller.scheduler.energy_price == 0.01, "for accounts alone"
    bench.close()


def test_it_is_fetched_joined_and_says_when_it_cannot_be(bench: Bench, site: Site) -> None:
    now_s = bench.controller.clock()
    site.page = csv((now_s - 600, 0.5))
    url = f"http://127.0.0.1:{site.server_port}/day-ahead.csv"
    bench.service.set_signal(SignalOrder("tariff", url=url, fallback=9.0), ROOT)
    assert bench.service.signals()[0].value == 0.5
    site.page = csv((now_s + 100, 0.7))
    run_for(bench, POLL_S + 70.0)
    wait_for_fetch()
    run_for(bench, 70.0)
    assert bench.service.signals()[0].value == 0.7
    assert len(bench.store.get("signals")["tariff"]["time_s"]) == 2, "what was known stays known"
    site.page = ""
    run_for(bench, POLL_S + 70.0)
    wait_for_fetch()
    record = bench.service.signals()[0]
    assert record.value == 0.7, "the last value holds until it is too old"
    assert "answers with HTTP status 503; the last values are used until they are too old" in record.fell_back
    assert any("answers with HTTP status 503" in notice for notice in bench.service.top().notices)
    bench.service.drop_signal("tariff", ROOT)
    assert not any("503" in notice for notice in bench.service.top().notices)


def wait_for_fetch() -> None:
    """Until no thread fetches any more."""
    for thread in threading.enumerate():
        if thread.name == "powerflow-signal":
            thread.join(20.0)


def test_accounts_reckon_with_each_hours_values(bench: Bench) -> None:
    job_id = bench.submit(**JOB, project="vision")
    hour = bench.controller.clock() // 3600.0 * 3600.0
    bench.store.charges.add(
        [
            Charge(hour - 7200, hour - 3600, "", job_id, 2 * KWH, 10.0),
            Charge(hour - 3600, hour, "", job_id, 1 * KWH, 10.0),
            Charge(hour - 3600, hour, "", None, 4 * KWH, 10.0),
        ]
    )
    before = bench.service.accounts(since_s=hour - 7200, until_s=hour, by="project")
    assert before.items[0].cost is None
    assert before.notes == ()
    text = csv((hour - 7200, 0.1), (hour - 3600, 0.5))
    bench.service.set_signal(SignalOrder("tariff", csv=text, source="p.csv"), ROOT)
    bench.service.set_signal(SignalOrder("carbon", csv=csv((hour - 3600, 400.0)), source="c.csv", fallback=300.0), ROOT)
    found = bench.service.accounts(since_s=hour - 7200, until_s=hour, by="project")
    vision, idle, total = found.items
    assert (vision.name, idle.name, total.name) == ("vision", "idle", "total")
    assert [account.cost for account in found.items] == pytest.approx([0.7, 2.0, 2.7])
    assert [account.co2_g for account in found.items] == pytest.approx([1000.0, 1600.0, 2600.0])
    assert found.notes == ["cost by p.csv", "CO2 by c.csv; 28.6% of the joules with its fallback, 300 gCO2/kWh"]
    named_idle = bench.submit(**JOB, project="idle")
    bench.store.charges.add([Charge(hour - 3600, hour, "", named_idle, 1 * KWH, 10.0)])
    costs = [a.cost for a in bench.service.accounts(since_s=hour - 7200, until_s=hour, by="project").items]
    assert costs == pytest.approx([0.7, 0.5, 2.0, 3.2]), "a project of that name pays for its own"
    by_job = bench.service.accounts(since_s=hour - 7200, until_s=hour, by="job").items
    assert by_job[0].cost == pytest.approx(0.7)


def test_with_a_budget_it_moves_the_projects_prices_too(bench: Bench) -> None:
    class Keeper(Governor):
        price = 0.2

        def limit_w(self, now_s: float) -> float:
            return 500.0

    keepers = {scope: Keeper(Budget(1.0, "day", "UTC", scope), (0.0, 1.0)) for scope in ("", "vision")}
    terms = Budgets(keepers, [(constant("tariff", 0.3), 1.0)]).terms(1e9, 100.0)
    assert (terms.price, terms.by_project) == (0.2, {"vision": 0.2})
    assert terms.limit_w == {"": 400.0, "vision": 500.0}
