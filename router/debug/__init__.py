"""`/debug/state`: a live view of the scheduler and the shards, as a stream of events."""
