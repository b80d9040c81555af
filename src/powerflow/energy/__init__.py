"""Keep energy budgets by setting the price of energy, and read tariffs and carbon intensities."""
