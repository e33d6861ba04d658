"""The Messages API's operations of the OpenAPI document."""

from __future__ import annotations

from router.anthropic import request_models, response_models
from router.anthropic.routes import PREFIX
from router.http.openapi_document import Operation

_EXAMPLE = {"messages": [{"role": "user", "content": "What does shutil.copy do?"}]}
ANTHROPIC_OPERATIONS = (
    Operation(
        method="post",
        path=PREFIX,
        summary="Generate the next message of a conversation, as a stream if `stream` is true",
        request_model=request_models.MessagesRequest,
        example={**_EXAMPLE, "max_tokens": 50},
        response_model=response_models.AnthropicMessageObject,
        event_model=response_models.AnthropicEvent,
        error_model=response_models.AnthropicErrorResponse,
    ),
    Operation(
        method="post",
        path=f"{PREFIX}/count_tokens",
        summary="Count the tokens of a conversation's prompt",
        request_model=request_models.CountTokensRequest,
        example=_EXAMPLE,
        response_model=response_models.InputTokens,
        error_model=response_models.AnthropicErrorResponse,
    ),
)
