"""The router's loop over simulated ranks, network, clients and time, with seeded faults."""
