"""How shards are found, downloaded, estimated and started. Only `launcher.py` imports it."""
