"""What it may cost: the energy price that meets an energy budget."""
