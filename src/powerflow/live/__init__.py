"""Run the controller of a live cluster. It uses the same scheduler object as the simulator."""
