"""The server's metrics, and the scheduler's status as JSON."""
