"""The scheduler: events in, a plan out, with a typed reason for every decision."""
