"""The pages `/ui` and `/dashboard`: static files, without a build step or an outside address."""
