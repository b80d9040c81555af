"""Emulated GPUs: no such hardware exists; processes share them through files."""
