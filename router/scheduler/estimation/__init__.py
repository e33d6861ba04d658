"""How long a request will still take: lengths and service times."""
