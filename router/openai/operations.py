"""OpenAI's routes for the OpenAPI document."""

from __future__ import annotations

from router.openai import answers, bodies, response_input
from router.openapi import Operation

QUESTION = "What does shutil.copy do?"
EXAMPLE = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 50}
CHAT = Operation(
    *("post", "/v1/chat/completions", "Answer a chat; a stream if `stream` is true"),
    takes=bodies.ChatBody,
    example=EXAMPLE,
    gives=answers.ChatCompletion,
    streams=answers.ChatCompletionChunk,
    done=True,
    failure=answers.OpenAiErrorResponse,
)
COMPLETIONS = Operation(
    *("post", "/v1/completions", "Complete prompts; a stream if `stream` is true"),
    takes=bodies.CompletionBody,
    example={"prompt": "def main():", "max_tokens": 20},
    gives=answers.Completion,
    streams=answers.Completion,
    done=True,
    failure=answers.OpenAiErrorResponse,
)
OPENAI = (
    CHAT,
    COMPLETIONS,
    Operation(
        *("post", "/v1/responses", "Answer without a memory; a stream if `stream` is true"),
        takes=response_input.ResponsesBody,
        example={"input": QUESTION, "max_output_tokens": 50},
        gives=answers.ResponseObject,
        streams=answers.ResponseEvent,
        failure=answers.OpenAiErrorResponse,
    ),
    Operation(
        *("post", "/chat_tokenize", "A chat's text and its tokens"),
        takes=bodies.ChatBody,
        example=EXAMPLE,
        gives=answers.ChatTokenizeResponse,
    ),
    Operation(
        *("get", "/v1/models", "What is served"),
        gives=answers.ModelsInfo,
        failure=answers.OpenAiErrorResponse,
    ),
)
