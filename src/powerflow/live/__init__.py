"""Body two: the controller that runs real jobs by the same scheduler object as the simulator."""
