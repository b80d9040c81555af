"""``powerflow top`` on a terminal: a live view by Textual, driven by keys over a cluster in memory."""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable

from powerflow.api.governance import BudgetOrder
from powerflow.api.job_spec import JobSpec
from powerflow.api.records import JobState, Refused, Role
from powerflow.cli.cluster.describe import Described
from powerflow.cli.cluster.live_top.app import TopApp
from powerflow.cli.cluster.live_top.cluster_look import ClusterLook
from powerflow.cli.cluster.live_top.job_screen import JobLook
from powerflow.cli.cluster.live_top.repeated import RepeatedQuestion
from powerflow.cli.sanitize import harmless
from powerflow.errors import InputError
from tests.cli.shell import ADA, Shell
from tests.service.fake_cluster import FakeCluster

Drive = Callable[[Pilot[None], TopApp], Awaitable[None]]
#: Longest wait for something to appear, in tries of a tenth of a second.
TRIES = 200
EVERY_S = 0.1


@pytest.fixture
def cluster() -> FakeCluster:
    """A running job, one that waits, and a budget."""
    made = FakeCluster()
    made.submit(JobSpec(run="python t.py", name="resnet50", project="vision"), ADA)
    made.submit(JobSpec(run="python t.py", name="bert"), ADA)
    fields: dict[str, Any] = {
        "progress": 0.25,
        "step_time_s": 0.112,
        "eta_s": made.now_s + 7259,
        "local_batch": 32,
        "accumulation": 2,
    }
    made.run("1", gpus=2, energy_j=1_800_000.0, **fields)
    made.change("2", reason="waits for GPUs: 2 more")
    made.set_budget(BudgetOrder(400 * 3.6e6, "day"), replace(ADA, role=Role.OPERATOR))
    return made


def drive(cluster: FakeCluster, act: Drive, size: tuple[int, int] = (80, 24)) -> TopApp:
    """Run the view over a cluster, and return it after its end."""
    question = RepeatedQuestion(
        lambda: harmless(ClusterLook(cluster.top(), list(cluster.nodes()), list(cluster.budgets()))), EVERY_S
    )

    def of_job(job_id: str) -> RepeatedQuestion[JobLook]:
        def look() -> JobLook:
            found, explanation = cluster.job(job_id), cluster.explain(job_id)
            job = Described(found.record, found.spec.model_dump(mode="json", by_alias=True), found.gpus_held, (), ())
            return JobLook(job, explanation, "step 7\nloss \\x1b[31m\n")

        return RepeatedQuestion(look, EVERY_S)

    question.first()
    app = TopApp(question, EVERY_S, of_job)

    async def run() -> None:
        async with app.run_test(size=size) as pilot:
            await act(pilot, app)

    asyncio.run(run())
    return app


def lines(app: TopApp) -> list[str]:
    """The text on the screen."""
    found: dict[float, str] = {}
    texts = r'<text[^>]*? x="([\d.]+)" y="([\d.]+)" textLength="[\d.]+"[^>]*>([^<]*)</text>'
    parts = re.findall(texts, app.export_screenshot(simplify=True))
    for x, y, text in sorted((float(x), float(y), html.unescape(text)) for x, y, text in parts):
        found[y] = found.get(y, "").ljust(round(x / 12.2)) + text.replace("\xa0", " ")
    return [found[y].rstrip() for y in sorted(found)]


async def until(pilot: Pilot[None], app: TopApp, text: str) -> list[str]:
    """Wait until the screen has a text, and return its lines."""
    for _ in range(TRIES):
        shown = lines(app)
        if text in "\n".join(shown):
            return shown
        await pilot.pause(0.1)
    raise AssertionError("\n".join(lines(app)))


def test_a_terminal_of_80_by_24_shows_all_that_matters(cluster: FakeCluster) -> None:
    shown: list[str] = []

    async def look(pilot: Pilot[None], app: TopApp) -> None:
        shown.extend(await until(pilot, app, "q quit"))

    drive(cluster, look)
    assert max(map(len, shown)) <= 80
    assert "\n".join(shown) == SCREEN


def test_keys_sort_filter_and_turn_to_the_nodes(cluster: FakeCluster) -> None:
    async def act(pilot: Pilot[None], app: TopApp) -> None:
        def ids() -> list[str]:
            table = app.screen.query_one(DataTable)
            return [str(table.get_row_at(i)[0]) for i in range(table.row_count)]

        assert ids() == ["1", "2"]
        await pilot.press("s", "r")
        await until(pilot, app, "id↓")
        assert ids() == ["2", "1"]
        await pilot.press("slash", "b")
        await pilot.pause()
        assert ids() == ["2"]
        await pilot.press("escape")
        await pilot.pause()
        assert ids() == ["2", "1"]
        await pilot.press("slash", "x", "x", "enter")
        await until(pilot, app, "nothing matches; Esc shows all")
        await pilot.press("escape", "n")
        await until(pilot, app, "A100")
        assert ids() == ["n1"] * 4 + ["n2"] * 4
        await pilot.press("q")

    assert drive(cluster, act).return_code == 0


def test_enter_opens_a_job_and_escape_comes_back(cluster: FakeCluster) -> None:
    async def act(pilot: Pilot[None], app: TopApp) -> None:
        await pilot.press("enter")
        shown = "\n".join(await until(pilot, app, "owner       ada"))
        assert "job 1: started on 2 GPUs at 1110 MHz" in shown
        assert "nodes/jobs" not in shown, "keys of the cluster do nothing here"
        await pilot.press("G")
        assert "loss \\x1b[31m" in "\n".join(await until(pilot, app, "step 7"))
        await pilot.press("escape")
        await until(pilot, app, "nodes/jobs")

    drive(cluster, act, (80, 40))


def test_names_and_reasons_control_nothing(cluster: FakeCluster) -> None:
    hostile = "\x1b[2J[bold red]x\ny\t\u202e[/]"
    cluster.change("1", name=hostile, user=hostile, project=hostile, reason=hostile, nodes=(hostile,))

    async def look(pilot: Pilot[None], app: TopApp) -> None:
        shown = await until(pilot, app, "q quit")
        text = "\n".join(shown)
        assert len(shown) <= 24
        assert r"\x1b[2J[bold red]x\ny\t\u202e[/]" in "".join(line.strip() for line in shown)
        assert "\x1b" not in text
        assert "\u202e" not in text

    drive(cluster, look)


def test_old_data_are_called_old_until_the_controller_answers_again(cluster: FakeCluster) -> None:
    async def act(pilot: Pilot[None], app: TopApp) -> None:
        cluster.broken = InputError("the controller at http://127.0.0.1:1 has gone", exit_code=5)
        shown = "\n".join(await until(pilot, app, "no answer for"))
        assert "what you see is of" in shown
        assert "has gone" in shown
        assert "resnet50" in shown
        cluster.broken = None
        cluster.change("2", name="newer")
        assert "no answer" not in "\n".join(await until(pilot, app, "newer"))

    assert drive(cluster, act).failed is None


def test_a_token_that_is_revoked_ends_the_view(cluster: FakeCluster) -> None:
    async def act(pilot: Pilot[None], app: TopApp) -> None:
        cluster.broken = Refused("the token was revoked")
        for _ in range(TRIES):
            if app._exit:
                return
            await pilot.pause(0.1)

    failed = drive(cluster, act).failed
    assert isinstance(failed, Refused)


def test_the_selected_job_stays_selected_while_others_come_and_go(cluster: FakeCluster) -> None:
    async def act(pilot: Pilot[None], app: TopApp) -> None:
        await pilot.press("down")
        await until(pilot, app, "job 2 of ada: waits for GPUs: 2 more")
        cluster.submit(JobSpec(run="true", name="third"), ADA)
        cluster.end("1", JobState.COMPLETED)
        shown = await until(pilot, app, "third")
        assert "job 2 of ada" in "\n".join(shown)

    drive(cluster, act)


def test_once_prints_a_table(busy: Shell) -> None:
    assert busy("top", "--once").splitlines()[0].startswith("GPUs ")
    assert "give one of them" in busy("top", "--once", "--watch", "1", code=2)


SCREEN = """\
GPUs    ████             25%   2 of 8 busy · 2 nodes: 2 up
power   702 Wᵉ · jobs 402 Wᵉ, idle 300 Wᵉ
energy  1.5 kWhᵉ · jobs 0.5 kWhᵉ (33%), idle 1.0 kWhᵉ
budget  25.0%: 100 kWhᵉ of 400 kWh a day, 360 kWh expected
jobs    1 running, 1 queued, 0 held · next decision in 34 s
policy  prices · λ_E 0.0020 s/J · ᵉ emulated: from a model, not from a meter
! no right to set clocks on n2
 id  name      state      GPUs   MHz   power     kWh  progress  ends in
  1  resnet50  running  2 of 1  1110  402 Wᵉ  0.500ᵉ  █    25%  2:00:59
  2  bert      queued        1     –       –  0.000ᵉ  –               –











job 1 of ada · project vision: started on 2 GPUs at 1110 MHz · local batch 32 ×
2 · on n1
 ⏎ open  q quit  n nodes/jobs  s sort  r reverse  / filter  w warnings"""
