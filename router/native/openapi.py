"""The native operations of the OpenAPI document."""

from __future__ import annotations

from router.http.openapi_document import Operation
from router.native import request_models, response_models

EXAMPLE = {"inputs": "def main():", "parameters": {"max_new_tokens": 20}}
ROOT = Operation(
    *("post", "/", "Generate; a stream if `stream` is true"),
    takes=request_models.CompatGenerate,
    example=EXAMPLE,
    gives=response_models.GenerateResponse,
    several=True,
    streams=response_models.StreamResponse,
)
NATIVE = (
    ROOT,
    Operation(
        *("post", "/generate", "Generate and answer at the end"),
        takes=request_models.Generate,
        example=EXAMPLE,
        gives=response_models.GenerateResponse,
    ),
    Operation(
        *("post", "/generate_stream", "Generate and answer token by token"),
        takes=request_models.Generate,
        example=EXAMPLE,
        streams=response_models.StreamResponse,
    ),
    Operation(
        *("post", "/tokenize", "The tokens of a text"),
        takes=request_models.Generate,
        example=EXAMPLE,
        gives=response_models.SimpleToken,
        several=True,
    ),
    Operation(
        "get", "/info", "What is served, and within which limits", gives=response_models.Info
    ),
    *(
        Operation("get", path, "Whether requests can be served now")
        for path in ("/", "/health", "/ping", "/health/ready")
    ),
    Operation("get", "/health/live", "Whether the server runs at all"),
    Operation("get", "/metrics", "Metrics for Prometheus", text=True),
    Operation(
        *("get", "/requests/{request_id}", "How a live request stands, by its x-request-id"),
        gives=response_models.Standing,
    ),
    *(
        Operation(
            method,
            path,
            "Stop a live request, by its x-request-id",
            gives=response_models.Cancelled,
        )
        for method, path in (("delete", "/requests/{request_id}"), ("post", "/cancel/{request_id}"))
    ),
)
