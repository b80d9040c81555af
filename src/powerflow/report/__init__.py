"""What to show: tables, plots, and one-file HTML."""
