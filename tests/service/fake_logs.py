"""Logs of ranks in memory, with the methods of `powerflow.gangs.manager.Gangs` that read logs."""

from __future__ import annotations

import math

from powerflow.engine.protocol import RankName, RankState, RankStatus
from powerflow.gangs.starts import Start


class FakeLogs:
    """Each write to the log of each job and first rank: when, and what."""

    def __init__(self) -> None:
        self._writes: dict[str, dict[str, list[tuple[float, bytes]]]] = {}
        self._kept_from: dict[str, int] = {}
        self.ended: set[str] = set()  # ranks

    def write(self, job_id: str, rank: str, text: str, now_s: float) -> None:
        """Add to a log. An epoch that is new in the rank's name begins a start; the job's other ranks have ended."""
        ranks = self._writes.setdefault(job_id, {})
        if rank not in ranks:
            self.ended.update(ranks)
        ranks.setdefault(rank, []).append((now_s, text.encode()))

    def drop(self, rank: str, size: int) -> None:
        """Keep nothing of the first bytes of a log, as after a rotation."""
        self._kept_from[rank] = size

    def ranks(self, job_id: str) -> list[str]:
        return [*reversed(self._writes.get(job_id, {}))]

    def starts(self, job_id: str) -> list[Start]:
        found: dict[int, list[str]] = {}
        for name in self._writes.get(job_id, {}):
            found.setdefault(RankName.parse(name).epoch, []).append(name)
        return [Start(number, ranks) for number, ranks in enumerate(found.values(), 1)]

    def rank_of(self, job_id: str, name: str) -> RankStatus:
        state = RankState.EXITED if name in self.ended else RankState.RUNNING
        return RankStatus(RankName.parse(name), "n1", state, 1, None, self._writes[job_id][name][0][0], math.nan)

    def log(self, job_id: str, rank: str, offset: int, limit: int) -> tuple[bytes, int]:
        content = b"".join(text for _, text in self._writes[job_id][rank])
        begin = max(len(content) + offset, 0) if offset < 0 else min(offset, len(content))
        begin = max(begin, self._kept_from.get(rank, 0))
        part = content[begin : begin + limit]
        return part, begin + len(part)

    def log_offset(self, rank: str, since_s: float) -> int:
        offset = self._kept_from.get(rank, 0)
        found = 0
        for written_s, text in self._writes[RankName.parse(rank).gang][rank]:
            if written_s >= since_s:
                break
            found += len(text)
        return max(found, offset)
