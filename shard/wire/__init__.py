"""The protocol between router and shards."""
