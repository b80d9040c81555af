"""The contract of a live cluster: what may be asked of it, and the shape of every question and answer."""
