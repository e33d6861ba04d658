"""Draft, verify, accept: one round for all rows of a Step."""
