"""Emulate GPUs that do not exist, in files that processes share."""
