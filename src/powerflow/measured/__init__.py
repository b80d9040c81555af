"""Turn what other tools measured of training jobs (watts, clocks, energy, steps) into points for fits.

Readers, one a file format, return recordings or totals (`powerflow.measured.recording`). `powerflow.measured.steady`
finds the steady training in a recording; what is not training is left out and counted. `powerflow.measured.read` brings
files, and what the user says of them, together to rows of the table of observations.
"""
