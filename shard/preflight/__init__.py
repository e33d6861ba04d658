"""The check of the models for `--check`, in a child process: `python -m shard.preflight`."""
