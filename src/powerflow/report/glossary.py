"""Define the words of a report for readers who do not know them."""

from __future__ import annotations

#: Description of each built-in policy in one line.
POLICY_WORDS = {
    "prices": "PowerFlow's default: jobs bid for GPUs and clocks, and one price balances supply and demand.",
    "greedy": "The PowerFlow paper's policy: begins at the least energy, then adds what gains most speed per energy.",
    "fifo": "First in, first out: jobs start in order of arrival, on exactly the requested GPUs.",
    "srtf": "Shortest remaining time first: short jobs go before long ones, and interrupt them.",
    "qssf": "Quasi-shortest service first: the job that needs the fewest GPU-hours goes first, and is not interrupted.",
    "tiresias": "Least attained service first: jobs that have used few GPU-hours go before those that have used many.",
    "gandiva": "Time slices: jobs take turns on the GPUs they asked for, and grow onto idle GPUs.",
    "afs": "Gives GPUs where they shorten the mean completion time most, short jobs first; changes GPU counts.",
    "optimus": "Gives the next GPU to the job whose remaining time it shortens most; changes GPU counts.",
    "pollux": "Shares GPUs so that all jobs make good use of theirs; changes GPU counts.",
}

#: Technical terms.
GLOSSARY = {
    "job completion time (JCT)": "Time from submission to the end: waiting, running and pauses together.",
    "energy": "Energy of the whole cluster over the same time for every policy: busy GPUs, idle GPUs, sleeping nodes.",
    "equal energy": "Policies are compared where they used the same energy. Each policy runs with several settings of "
    "its energy parameter; values between two settings are interpolated. So no policy looks fast only because it used "
    "more energy.",
    "energy level": "A share of the energy that FIFO uses with every GPU at its maximum clock.",
    "frontier": "The best mean completion time that a policy reaches at each energy.",
    "bound": "A proven limit: no schedule can be better, not even one that knows the future.",
    "clock": "The frequency of a GPU's cores. At a lower clock jobs run slower, but power falls more than speed.",
    "slowdown": "Completion time divided by the time that the job would take alone, as submitted, without waiting.",
    "wait": "Time from submission until a job first gets GPUs.",
    "makespan": "Time from the start until the last job is done.",
    "rescale": "A change of a job's number of GPUs, or a move; the job pauses for it.",
    "p50, p99": "Half of the jobs, or 99 in 100, were at least this good.",
    "interval": "The range that contains the mean over seeds with 95 % confidence (Student's t). "
    "A seed selects the random part of a workload.",
}
