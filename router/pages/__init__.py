"""The pages `/ui` and others: static files, without a build step or an outside address."""
