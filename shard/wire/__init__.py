"""The protocol between the router and the shards."""
