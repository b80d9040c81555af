"""Run real jobs: the controller, which uses the same scheduler object as the simulator."""
