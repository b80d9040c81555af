"""Checks on a machine with one NVIDIA GPU: ``python -m benchmarks.on_gpu``. See `benchmarks.on_gpu.__main__`."""
