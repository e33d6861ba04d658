"""The native operations of the OpenAPI document."""

from __future__ import annotations

from router.http.openapi_document import Operation
from router.native import request_models, response_models

EXAMPLE = {"inputs": "def main():", "parameters": {"max_new_tokens": 20}}
ROOT = Operation(
    *("post", "/", "Generate; a stream if `stream` is true"),
    request_model=request_models.CompatGenerateRequest,
    example=EXAMPLE,
    response_model=response_models.GenerateResponse,
    is_list=True,
    event_model=response_models.StreamResponse,
)
NATIVE_OPERATIONS = (
    ROOT,
    Operation(
        *("post", "/generate", "Generate and answer at the end"),
        request_model=request_models.GenerateRequest,
        example=EXAMPLE,
        response_model=response_models.GenerateResponse,
    ),
    Operation(
        *("post", "/generate_stream", "Generate and answer token by token"),
        request_model=request_models.GenerateRequest,
        example=EXAMPLE,
        event_model=response_models.StreamResponse,
    ),
    Operation(
        *("post", "/tokenize", "The tokens of a text"),
        request_model=request_models.GenerateRequest,
        example=EXAMPLE,
        response_model=response_models.SimpleToken,
        is_list=True,
    ),
    Operation(
        "get",
        "/info",
        "What is served, and within which limits",
        response_model=response_models.Info,
    ),
    *(
        Operation("get", path, "Whether requests can be served now")
        for path in ("/", "/health", "/ping", "/health/ready")
    ),
    Operation("get", "/health/live", "Whether the server runs at all"),
    Operation("get", "/metrics", "Metrics for Prometheus", is_text=True),
    Operation(
        *("get", "/requests/{request_id}", "How a live request stands, by its x-request-id"),
        response_model=response_models.RequestStatusResponse,
    ),
    *(
        Operation(
            method,
            path,
            "Stop a live request, by its x-request-id",
            response_model=response_models.CancelResponse,
        )
        for method, path in (("delete", "/requests/{request_id}"), ("post", "/cancel/{request_id}"))
    ),
)
