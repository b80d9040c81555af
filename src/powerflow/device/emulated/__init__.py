"""Emulate GPUs that do not exist as hardware. Processes share the state of each emulated GPU in a file."""
