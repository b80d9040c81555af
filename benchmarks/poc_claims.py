"""How often the intervals of ``powerflow poc`` hold the truth.

    python -m benchmarks.poc_claims [SITES]

Each site is made up (``tests/poc/made_up_site.py``): its log names no models, but its true models, costs and joules
are known. PowerFlow is told the costs and the sizes of jobs, not which model a job trains. Half of the sites have
joules for all jobs, the others for two thirds. Each answer makes four claims of 95 %.
"""

from __future__ import annotations

import sys
import time

from tests.poc.made_up_site import claims, site_trace

#: Share of the jobs with measured joules, in turn.
MEASURED = (1.0, 0.65)


def main(sites: int) -> None:
    """Ask for the answer of each site, and print how many claims held."""
    trace, began_s = site_trace(), time.process_time()
    held: list[bool] = []
    for site in range(sites):
        held += claims(trace, site, MEASURED[site % len(MEASURED)]).held
    spent_s = time.process_time() - began_s
    said = f"{sum(held)} of {len(held)} claims of 95 % held the truth ({100 * sum(held) / len(held):.0f} %)"
    print(f"{sites} sites of {len(trace.jobs)} jobs: {said}")
    print(f"{spent_s:.0f} s of CPU")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 60)
