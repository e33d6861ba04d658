"""The page about reliability: which tests cover which failures, and what was measured."""
