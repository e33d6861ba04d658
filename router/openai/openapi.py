"""OpenAI's routes for the OpenAPI document."""

from __future__ import annotations

from router.http.openapi_document import Operation
from router.openai import request_models, response_models, responses_request

EXAMPLE_QUESTION = "What does shutil.copy do?"
EXAMPLE_CHAT = {"messages": [{"role": "user", "content": EXAMPLE_QUESTION}], "max_tokens": 50}
CHAT_OPERATION = Operation(
    *("post", "/v1/chat/completions", "Answer a chat; a stream if `stream` is true"),
    request_model=request_models.ChatBody,
    example=EXAMPLE_CHAT,
    response_model=response_models.ChatCompletion,
    event_model=response_models.ChatCompletionChunk,
    ends_with_done=True,
    error_model=response_models.OpenAiErrorResponse,
)
COMPLETIONS_OPERATION = Operation(
    *("post", "/v1/completions", "Complete prompts; a stream if `stream` is true"),
    request_model=request_models.CompletionBody,
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
        *("post", "/v1/responses", "Answer without a memory; a stream if `stream` is true"),
        request_model=responses_request.ResponsesBody,
        example={"input": EXAMPLE_QUESTION, "max_output_tokens": 50},
        response_model=response_models.ResponseObject,
        event_model=response_models.ResponseEvent,
        error_model=response_models.OpenAiErrorResponse,
    ),
    Operation(
        *("post", "/chat_tokenize", "A chat's text and its tokens"),
        request_model=request_models.ChatBody,
        example=EXAMPLE_CHAT,
        response_model=response_models.ChatTokenizeResponse,
    ),
    Operation(
        *("get", "/v1/models", "What is served"),
        response_model=response_models.ModelsInfo,
        error_model=response_models.OpenAiErrorResponse,
    ),
)
