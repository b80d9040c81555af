"""The brain: events in, a plan out, with a typed reason for every decision."""
