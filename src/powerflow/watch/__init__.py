"""Watch who uses the GPUs of a site, and how much energy each job draws, beside the site's own scheduler.

Nothing here changes a job, a GPU or a scheduler. Sources of readings say what each GPU draws; sources of owners say
which job holds it; `powerflow.watch.attribution` brings both together.
"""
