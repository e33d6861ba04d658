"""Records step costs and acceptance traces for the simulator."""
