"""Run the agent of a machine: its ranks, its GPUs, and its copies of the jobs' mailboxes."""
