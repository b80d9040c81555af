"""What the words of a report mean, for a reader who has never met them."""

from __future__ import annotations

#: What each built-in policy does, in one line.
POLICY_WORDS = {
    "prices": "PowerFlow's default: jobs bid what GPUs and clocks are worth to them, and one price clears them.",
    "greedy": "The paper's: from one GPU at the thriftiest clock, takes the steps that buy most speed for energy.",
    "fifo": "First in, first out: jobs start in order of arrival, on as many GPUs as they asked for.",
    "srtf": "Shortest remaining time first: short jobs go before long ones, long ones give way.",
    "qssf": "Quasi-shortest service first: the job that needs the fewest GPU-hours goes first, and is not interrupted.",
    "tiresias": "Least attained service first: jobs that have had little so far go before those that have had much.",
    "gandiva": "Time slices: jobs take turns on the GPUs they asked for, and grow onto GPUs that would idle.",
    "afs": "Gives GPUs where they shorten the mean completion time most, short jobs first; changes GPU counts.",
    "optimus": "Gives the next GPU to the job whose remaining time it shortens most; changes GPU counts.",
    "pollux": "Shares GPUs so that all jobs make good use of theirs; changes GPU counts.",
}

#: The field's own terms.
GLOSSARY = {
    "job completion time (JCT)": "From submission to the end: waiting, running and pauses together.",
    "energy": "Metered for the whole cluster over the same span for every policy: busy GPUs, idle GPUs, nodes asleep.",
    "equal energy": "Policies are compared where they used the same energy. Each one's energy knob is swept; "
    "between two settings its own frontier is interpolated. So no policy looks fast only because it burnt more.",
    "energy level": "A share of the energy that FIFO uses with every GPU at its maximum clock.",
    "frontier": "The best mean completion time that a policy reaches at each energy.",
    "bound": "A proven limit: no schedule whatever, not even one that knows the future, can be on its other side.",
    "clock": "The frequency a GPU's cores run at. A lower clock is slower, and saves more power than it costs time.",
    "slowdown": "Completion time over what the job would have taken alone, as submitted, without waiting.",
    "wait": "From submission until a job first gets GPUs.",
    "makespan": "From the first moment until the last job is done.",
    "rescale": "A change of a job's number of GPUs, or a move; the job pauses for it.",
    "p50, p99": "Half of the jobs, or 99 in 100, were at least this good.",
    "interval": "Where the mean over seeds lies with 95 % confidence (Student's t). "
    "A seed changes what is random in a workload.",
}
