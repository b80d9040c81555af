"""Make decisions that keep power caps: limits in watts on a part of the cluster for some time."""
