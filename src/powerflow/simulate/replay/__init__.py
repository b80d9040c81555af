"""Replay a site's own log: what it did, and what PowerFlow would have changed."""
