"""Load on a real server: overload, starvation, slow clients, and a soak with faults."""
