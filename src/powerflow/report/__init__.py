"""Show results as tables, plots, and self-contained HTML pages."""
