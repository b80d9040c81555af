"""Emulate GPUs: no such hardware exists, and processes share the state of each emulated GPU in a file."""
