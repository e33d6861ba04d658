"""OpenAI's routes for the OpenAPI document."""

from __future__ import annotations

from router.http.openapi_document import Operation
from router.openai import request_models, response_models, responses_request

QUESTION = "What does shutil.copy do?"
EXAMPLE = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 50}
CHAT = Operation(
    *("post", "/v1/chat/completions", "Answer a chat; a stream if `stream` is true"),
    takes=request_models.ChatBody,
    example=EXAMPLE,
    gives=response_models.ChatCompletion,
    streams=response_models.ChatCompletionChunk,
    done=True,
    failure=response_models.OpenAiErrorResponse,
)
COMPLETIONS = Operation(
    *("post", "/v1/completions", "Complete prompts; a stream if `stream` is true"),
    takes=request_models.CompletionBody,
    example={"prompt": "def main():", "max_tokens": 20},
    gives=response_models.Completion,
    streams=response_models.Completion,
    done=True,
    failure=response_models.OpenAiErrorResponse,
)
OPENAI = (
    CHAT,
    COMPLETIONS,
    Operation(
        *("post", "/v1/responses", "Answer without a memory; a stream if `stream` is true"),
        takes=responses_request.ResponsesBody,
        example={"input": QUESTION, "max_output_tokens": 50},
        gives=response_models.ResponseObject,
        streams=response_models.ResponseEvent,
        failure=response_models.OpenAiErrorResponse,
    ),
    Operation(
        *("post", "/chat_tokenize", "A chat's text and its tokens"),
        takes=request_models.ChatBody,
        example=EXAMPLE,
        gives=response_models.ChatTokenizeResponse,
    ),
    Operation(
        *("get", "/v1/models", "What is served"),
        gives=response_models.ModelsInfo,
        failure=response_models.OpenAiErrorResponse,
    ),
)
