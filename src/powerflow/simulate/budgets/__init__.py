"""Long simulations under energy budgets, by the code that keeps them live."""
