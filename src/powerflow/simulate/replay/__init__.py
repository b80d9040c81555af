"""Replay the job log of a site (a cluster without PowerFlow), and estimate what PowerFlow would have saved."""
