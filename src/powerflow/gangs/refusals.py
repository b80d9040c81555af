"""Find ranks whose script PowerFlow refused to train.

The job is not tried again, because its script would be refused again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from powerflow.elastic.mailbox import RankReport
from powerflow.gangs.state_file import GangFailure

#: Found in torch's traceback when a script opens a process group without an address.
_OWN_GROUP = ("init_process_group(", "_env_rendezvous_handler", "/deepspeed/")
_RESTART = (
    "its script opens a torch.distributed process group itself (such as for FSDP or DeepSpeed), and does not use"
    " powerflow.elastic: submit the job with rescale: restart"
)


def refusal(
    lost: Iterable[str],
    reports: Mapping[str, RankReport],
    code: Callable[[str], int | None],
    last_lines: Callable[[str], Iterable[str]],
) -> GangFailure | None:
    """Return the reason why PowerFlow refused the script of one of the lost ranks; None if it refused none.

    Args:
        lost: Ranks that ended unexpectedly.
        reports: Last reports of the ranks.
        code: Returns a rank's exit code.
        last_lines: Returns the last lines of a rank's log.
    """
    for name in lost:
        report = reports.get(name)
        if not code(name):
            continue
        if report is not None and report.refusal:
            return GangFailure(code(name), f"{name} was refused: {report.refusal}", name, final=True)
        if report is None and any(sign in line for line in last_lines(name) for sign in _OWN_GROUP):
            return GangFailure(code(name), f"{name} exited with code {code(name)}: {_RESTART}", name, final=True)
    return None
