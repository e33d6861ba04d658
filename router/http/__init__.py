"""HTTP without any API: server, bodies, responses, streams, access, logging and tracing."""
