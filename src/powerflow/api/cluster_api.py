"""Define the protocol between the REST API and a live cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from powerflow.api.accounts import Accounts, EndedJob
from powerflow.api.bulk_answer import JobsChanged
from powerflow.api.decisions import DecisionRecord, Explanation
from powerflow.api.governance import (
    AuditRecord,
    BudgetOrder,
    BudgetRecord,
    CapOrder,
    CapRecord,
    DrainOrder,
    ShareOrder,
    ShareRecord,
    SignalOrder,
    SignalRecord,
)
from powerflow.api.job_change import JobChange, JobsOrder
from powerflow.api.job_detail import JobDetail
from powerflow.api.job_spec import JobSpec
from powerflow.api.logs import JobLogs, LogChunk
from powerflow.api.loop_figures import LoopFigures
from powerflow.api.pages import ALL_JOBS, EVERYTHING, JobFilter, NumberedPage, Page, RecordFilter
from powerflow.api.predictions import PredictionsRecord
from powerflow.api.recent import ClusterSample
from powerflow.api.records import Caller, EventRecord, JobRecord, NodeRecord, Top
from powerflow.api.shells import ShellInput, ShellOrder, ShellPiece, ShellRecord, ShellSize, ShellTaken
from powerflow.api.stages import SavingsRecord, StageOrder, StageRecord
from powerflow.energy.kinds import Kind


class ClusterApi(Protocol):
    """Interface through which the REST API asks a live cluster. Methods can be called from any thread.

    Coroutines are awaited in the event loop of the REST API, and do not block it.

    The REST API checks the caller's role (`powerflow.api.operations`) before it calls a method. Every method may raise
    `NotFound` (a job or node does not exist), `Forbidden` (the job belongs to another user), `Refused` (the present
    state does not allow the change) and `Unavailable` (the store cannot be used). The OpenAPI document takes an
    operation's description from its route's docstring, or else from here: the text before ``Returns`` or ``Raises``.
    """

    def submit(self, spec: JobSpec, caller: Caller, key: str | None = None) -> tuple[JobRecord, bool]:
        """Submit a job. When the answer arrives, the job is stored on disk.

        Returns:
            The job, and True if it is new. If this caller has already sent the same key, the earlier job is returned.

        Raises:
            Refused: The key was used for a different job, or the job can never run on this cluster.
        """

    def jobs(self, only: JobFilter = ALL_JOBS, *, after: str | None = None, limit: int = 100) -> Page[JobRecord]:
        """List jobs, newest first. To get the next page, set `after` to the value of `next` in this answer."""

    def history(
        self, since_s: float, until_s: float, only: JobFilter = ALL_JOBS, *, after: str | None = None, limit: int = 100
    ) -> Page[EndedJob]:
        """List jobs that ended in a time window, with what they used; the job that ended last is the first.

        To get the next page, set `after` to the value of `next` in this answer.
        """

    def job(self, job_id: str) -> JobDetail:
        """Show one job."""

    def cancel(self, job_id: str, caller: Caller) -> JobRecord:
        """Cancel a job and end its processes. If the job is cancelled already, nothing changes."""

    def change_jobs(self, order: JobsOrder, caller: Caller) -> JobsChanged:
        """Cancel, hold or release several jobs. Jobs for which this is not possible are named in the answer."""

    def update(self, job_id: str, change: JobChange, caller: Caller) -> JobRecord:
        """Change keys of a job that is queued or held. Of a running job, only time_limit and retries can be changed.

        Raises:
            InputError: The job with this change is not valid.
        """

    def hold(self, job_id: str, caller: Caller) -> JobRecord:
        """Keep a job from running. If the job is running, it is stopped first and gives back its GPUs."""

    def release(self, job_id: str, caller: Caller) -> JobRecord:
        """Let a held job run again."""

    def explain(self, job_id: str) -> Explanation:
        """Explain why a job has its present GPUs and clock, and which other GPU counts and clocks it could have."""

    def logs(self, job_id: str) -> JobLogs:
        """List the logs that together are the log of a job, oldest first: those of the first rank of each start."""

    def log(
        self,
        job_id: str,
        *,
        rank: str | None = None,
        offset: int = 0,
        limit: int = 65536,
        tail: int | None = None,
        since_s: float | None = None,
    ) -> LogChunk:
        """Show part of the log of one rank. To get the next part, set `offset` to the offset in this answer.

        With `tail` or `since_s`, the part begins there, and not at `offset`; with both, where the later one begins.
        Leave them out to get the next part.

        Raises:
            NodeAway: The node of the rank does not answer.
        """

    async def open_shell(self, job_id: str, order: ShellOrder, caller: Caller) -> ShellRecord:
        """Run a command, or the user's shell, beside a rank of a job, as a part of this rank.

        It has the user, the environment and the working directory of the rank, and ends with it. If nobody asks for its
        output for 60 s, it is hung up.

        Raises:
            Refused: The job has no such process now, or has the most shells.
            NodeAway: The node of the rank does not answer.
        """

    async def shell_output(
        self, job_id: str, shell: str, caller: Caller, *, after: int = 0, wait_s: float = 0.0
    ) -> ShellPiece:
        """Show a piece of the output of a shell. To get the next piece, set `after` to the number of this one.

        The last piece can be asked for again. If there is no output yet, the answer has none, and the same number.
        """

    async def shell_input(self, job_id: str, shell: str, given: ShellInput, caller: Caller) -> ShellTaken:
        """Pass input to a shell. If the command does not read it, only a part of the input is taken, or nothing."""

    async def resize_shell(self, job_id: str, shell: str, size: ShellSize, caller: Caller) -> ShellRecord:
        """Change the size of a shell's terminal."""

    async def close_shell(self, job_id: str, shell: str, caller: Caller) -> ShellRecord:
        """Hang a shell up: its command gets SIGHUP, and is killed if it has not ended after 5 s."""

    def decisions(self, job_id: str, *, after: int = 0, limit: int = 100) -> NumberedPage[DecisionRecord]:
        """List the decisions about a job, oldest first, each with the predicted completion time and energy."""

    def events(
        self, *, after: int = 0, limit: int = 100, only: RecordFilter = EVERYTHING, latest: bool = False
    ) -> NumberedPage[EventRecord]:
        """List events of the cluster, oldest first. To get later events, send the `after` of this answer.

        With `latest`, the answer has the last `limit` events, not the first.
        """

    def nodes(self) -> Sequence[NodeRecord]:
        """List nodes and their GPUs."""

    def drain(self, node: str, order: DrainOrder, caller: Caller) -> NodeRecord:
        """Stop giving a node new jobs, and move the jobs that run on it to other nodes.

        Raises:
            NotSure: Jobs would pause, restart or begin anew, and the order is not ``sure``.
        """

    def resume(self, node: str, caller: Caller) -> NodeRecord:
        """Use a drained or failed node again."""

    def declare_off(self, node: str, caller: Caller, reason: str) -> NodeRecord:
        """Declare that a node which does not answer is off, so that its jobs can start elsewhere.

        Its ranks count as lost. If one of them runs anyway, it is ended as soon as the node answers.

        Raises:
            Refused: The node answers.
        """

    def top(self) -> Top:
        """Show the present state of the cluster."""

    def recent(self, *, after_s: float = 0.0) -> Sequence[ClusterSample]:
        """List power and prices of the last 6 hours, one sample in about 10 s, oldest first.

        With `after_s`, only later samples. Samples from before the controller's last start are not kept.
        """

    def accounts(self, *, since_s: float, until_s: float, by: str) -> Accounts:
        """Show how much energy each user, project or job (`by`) was charged in a time window."""

    def predictions(
        self, *, since_s: float, until_s: float, project: str | None = None, user: str | None = None
    ) -> PredictionsRecord:
        """Compare what jobs that completed in a time window took with what was predicted when they got GPUs."""

    def stages(self) -> Sequence[StageRecord]:
        """List rollout stages and the results of the jobs in them.

        The first stage applies to all projects without a stage of their own, each further one to one project.
        """

    def savings(self) -> SavingsRecord | None:
        """Show the latest simulation of this cluster's past days (a replay); null if there is none yet."""

    def set_stage(self, order: StageOrder, caller: Caller) -> Sequence[StageRecord]:
        """Set the rollout stage of some projects, or of all projects if none is named. Return all stages.

        Raises:
            NotSure: Caps or budgets would not be kept any more, or jobs would pause or restart, and the order is not
                ``sure``.
        """

    def budgets(self) -> Sequence[BudgetRecord]:
        """List energy budgets and how much of each is used: first the cluster's budget, then budgets of projects."""

    def set_budget(self, order: BudgetOrder, caller: Caller) -> BudgetRecord:
        """Set an energy budget of the cluster or a project, in joules per day or month. Replace the previous budget.

        Raises:
            NotSure: The budget cannot be kept or would pause jobs, and the order is not ``sure``.
        """

    def drop_budget(self, project: str, caller: Caller) -> BudgetRecord:
        """Remove the energy budget of a project. With the project "", remove the cluster's budget."""

    def shares(self) -> Sequence[ShareRecord]:
        """List the shares of projects that operators have set. All other projects have the share 1."""

    def set_share(self, order: ShareOrder, caller: Caller) -> ShareRecord:
        """Set the share of a project. Fair share divides GPUs for which jobs wait between projects by their shares."""

    def signals(self) -> Sequence[SignalRecord]:
        """List signals (tariff and carbon), each with its present value and its value for times without data."""

    def set_signal(self, order: SignalOrder, caller: Caller) -> SignalRecord:
        """Set a signal from exactly one of `csv`, `url` and `constant`. Replace the previous signal of this kind."""

    def drop_signal(self, kind: Kind, caller: Caller) -> SignalRecord:
        """Remove the tariff or the carbon signal."""

    def caps(self) -> Sequence[CapRecord]:
        """List power caps, newest first, and how well each was kept."""

    def cap_csv(self, number: int) -> str:
        """Show the power that was drawn and allowed under a cap, as CSV with one line for each change."""

    def set_cap(self, order: CapOrder, caller: Caller) -> CapRecord:
        """Set a power cap for a part of the cluster, in `watts` or as a `share` of the part's present power.

        The cap replaces an earlier cap of the same part with the same start time.

        Raises:
            NotSure: The cap cannot be kept or would pause jobs, and the order is not ``sure``.
        """

    def lift_cap(self, scope: str, caller: Caller) -> Sequence[CapRecord]:
        """End the present power caps of a part of the cluster (`scope`), and remove the part's future caps."""

    def audit(
        self,
        *,
        after: int = 0,
        limit: int = 100,
        only: RecordFilter = EVERYTHING,
        clocks: bool = False,
        latest: bool = False,
    ) -> NumberedPage[AuditRecord]:
        """List the changes that users have made: who changed what, when and from which address, oldest first.

        With `latest`, the answer has the last `limit` entries, not the first. Entries about GPU clocks are left out,
        unless `clocks` is true. No entry is ever removed.
        """

    def healthy(self) -> Mapping[str, Any]:
        """Report if the controller's main loop runs (``ok``), and how many seconds ago its last round ended."""

    def loop_figures(self) -> LoopFigures:
        """Show what only metrics tell of the main loop: how long its turns take, GPU prices, power under caps."""
