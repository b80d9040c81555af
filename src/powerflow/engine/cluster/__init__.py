"""Run ranks on many machines: an `Engine` over the agents of the machines, whatever carries its orders to them."""
