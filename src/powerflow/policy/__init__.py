"""Decide how many GPUs and which clock each job gets: the `Policy` protocol, PowerFlow's policies, and baselines."""
