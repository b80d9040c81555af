"""Who gets what: the `Policy` protocol, `prices` (the default), `greedy` (the paper's) and every baseline."""
