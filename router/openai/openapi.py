"""OpenAI's operations of the OpenAPI document."""

from __future__ import annotations

from router.http.openapi_document import Operation
from router.openai import request_models, response_models, responses_request

EXAMPLE_QUESTION = "What does shutil.copy do?"
EXAMPLE_CHAT = {"messages": [{"role": "user", "content": EXAMPLE_QUESTION}], "max_tokens": 50}
CHAT_OPERATION = Operation(
    method="post",
    path="/v1/chat/completions",
    summary="Generate the next message of a chat, as a stream if `stream` is true",
    request_model=request_models.ChatRequest,
    example=EXAMPLE_CHAT,
    response_model=response_models.ChatCompletion,
    event_model=response_models.ChatCompletionChunk,
    ends_with_done=True,
    error_model=response_models.OpenAiErrorResponse,
)
COMPLETIONS_OPERATION = Operation(
    method="post",
    path="/v1/completions",
    summary="Complete one or more prompts, as a stream if `stream` is true",
    request_model=request_models.CompletionRequest,
    example={"prompt": "def main():", "max_tokens": 20},
    response_model=response_models.Completion,
    event_model=response_models.Completion,
    ends_with_done=True,
    error_model=response_models.OpenAiErrorResponse,
)
OPENAI_OPERATIONS = (
    CHAT_OPERATION,
    COMPLETIONS_OPERATION,
    Operation(
        method="post",
        path="/v1/responses",
        summary="Generate a response that is not stored, as a stream if `stream` is true",
        request_model=responses_request.ResponsesRequest,
        example={"input": EXAMPLE_QUESTION, "max_output_tokens": 50},
        response_model=response_models.ResponseObject,
        event_model=response_models.ResponseEvent,
        error_model=response_models.OpenAiErrorResponse,
    ),
    Operation(
        method="post",
        path="/chat_tokenize",
        summary="Render and tokenize a chat",
        request_model=request_models.ChatRequest,
        example=EXAMPLE_CHAT,
        response_model=response_models.ChatTokenizeResponse,
    ),
    Operation(
        method="get",
        path="/v1/models",
        summary="List the served models",
        response_model=response_models.ModelsInfo,
        error_model=response_models.OpenAiErrorResponse,
    ),
    Operation(
        method="get",
        path="/v1/models/{model}",
        summary="Describe the served model",
        response_model=response_models.ModelInfo,
        error_model=response_models.OpenAiErrorResponse,
    ),
)
