"""The native operations of the OpenAPI document."""

from __future__ import annotations

from router.http.openapi_document import Operation
from router.native import request_models, response_models

EXAMPLE = {"inputs": "def main():", "parameters": {"max_new_tokens": 20}}
HEALTH_PATHS = ("/", "/health", "/ping", "/health/ready")
CANCEL_PATHS = (("delete", "/requests/{request_id}"), ("post", "/cancel/{request_id}"))
ROOT = Operation(
    method="post",
    path="/",
    summary="Generate text, as a stream if `stream` is true",
    request_model=request_models.CompatGenerateRequest,
    example=EXAMPLE,
    response_model=response_models.GenerateResponse,
    is_list=True,
    event_model=response_models.StreamResponse,
)
NATIVE_OPERATIONS = (
    ROOT,
    Operation(
        method="post",
        path="/generate",
        summary="Generate text",
        request_model=request_models.GenerateRequest,
        example=EXAMPLE,
        response_model=response_models.GenerateResponse,
    ),
    Operation(
        method="post",
        path="/generate_stream",
        summary="Generate text and stream it token by token",
        request_model=request_models.GenerateRequest,
        example=EXAMPLE,
        event_model=response_models.StreamResponse,
    ),
    Operation(
        method="post",
        path="/tokenize",
        summary="Tokenize a text",
        request_model=request_models.GenerateRequest,
        example=EXAMPLE,
        response_model=response_models.SimpleToken,
        is_list=True,
    ),
    Operation(
        method="get",
        path="/info",
        summary="Get the served model and the limits of requests",
        response_model=response_models.Info,
    ),
    *(
        Operation(method="get", path=path, summary="Check whether requests can be served")
        for path in HEALTH_PATHS
    ),
    Operation(
        method="get", path="/health/live", summary="Check whether the server process is running"
    ),
    Operation(method="get", path="/metrics", summary="Get Prometheus metrics", is_text=True),
    Operation(
        method="get",
        path="/requests/{request_id}",
        summary="Get the status of a live request",
        response_model=response_models.RequestStatusResponse,
    ),
    *(
        Operation(
            method=method,
            path=path,
            summary="Cancel a live request",
            response_model=response_models.CancelResponse,
        )
        for method, path in CANCEL_PATHS
    ),
)
