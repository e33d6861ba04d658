"""TGI's native API: routes, bodies, validation, responses."""
