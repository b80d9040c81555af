"""A year of jobs under energy budgets, by the code that the live controller uses, in virtual time."""
