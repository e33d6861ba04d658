"""The values that a request becomes: `Request` when valid, `Record` when live."""
