"""What OpenAI's routes take: strict models, from which the OpenAPI document is made too.

As on the native routes, unknown fields are ignored and null equals absent. What the values mean
together is decided elsewhere.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AliasChoices,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from router.http.json_body import I32, U32, Body, Float32, Json, StringList

MAX_MESSAGES = 4096
MAX_TOOLS = 256
MAX_LOGIT_BIASES = 1024

Seed = Annotated[int, Field(ge=-(1 << 63), lt=1 << 64)]
TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
TokenIds = Annotated[list[TokenId], Field(fail_fast=True)]


def _prompt_kind(value: Any) -> str:
    first = value[0] if isinstance(value, list) and value else ""
    if isinstance(value, str):
        return "text"
    return "lists" if isinstance(first, list) else "texts" if isinstance(first, str) else "ids"


PromptInput = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[StringList, Tag("texts")]
    | Annotated[TokenIds, Tag("ids")]
    | Annotated[Annotated[list[TokenIds], Field(fail_fast=True)], Tag("lists")],
    Discriminator(_prompt_kind),
]


class StreamOptions(Body):
    """What a stream tells beside the text."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class CommonParameters(Body):
    """What chats and completions have in common."""

    model: str | None = None
    max_tokens: U32 | None = Field(
        default=None, validation_alias=AliasChoices("max_tokens", "max_completion_tokens")
    )
    temperature: Float32 | None = None
    top_p: Float32 | None = None
    top_k: I32 | None = None
    min_p: Float32 | None = None
    frequency_penalty: Float32 | None = None
    presence_penalty: Float32 | None = None
    repetition_penalty: Float32 | None = None
    logit_bias: Annotated[dict[str, Float32], Field(fail_fast=True)] | list[Json] | None = None
    n: U32 | None = None
    stop: str | StringList | None = None
    seed: Seed | None = None
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    speculate: I32 | None = None
    expected_new_tokens: U32 | None = None
    priority: I32 = 0
    user: str | None = None
    cache_salt: str | None = None
    ignore_eos: bool = Field(
        default=False, validation_alias=AliasChoices("ignore_eos", "ignore_eos_token")
    )
    min_tokens: U32 | None = Field(
        default=None, validation_alias=AliasChoices("min_tokens", "min_new_tokens")
    )


class CompletionBody(CommonParameters):
    """Body of `/v1/completions`."""

    prompt: PromptInput
    suffix: str | None = None
    logprobs: U32 | None = None
    echo: bool = False
    best_of: U32 | None = None


class Part(Body):
    """A part of a message: text, or something that is refused."""

    type: str
    text: str | None = None


ContentParts = Annotated[list[Part], Field(fail_fast=True)]


class CalledFunction(Body):
    """A call that the assistant made earlier; `arguments` is JSON text, or the object itself."""

    name: str
    arguments: Json = Field(default=None, validation_alias=AliasChoices("arguments", "parameters"))


class EarlierCall(Body):
    """The same, with its id."""

    id: str | None = None
    type: str = "function"
    function: CalledFunction


class Message(Body):
    """One turn."""

    role: str
    content: str | ContentParts | None = None
    name: str | None = None
    tool_calls: Annotated[list[EarlierCall], Field(fail_fast=True)] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class Function(Body):
    """What the model may call."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    description: str | None = None
    parameters: dict[str, Json] | None = Field(
        default=None, validation_alias=AliasChoices("parameters", "arguments")
    )
    strict: bool | None = None


class Tool(Body):
    """A function to call."""

    type: Literal["function"] = "function"
    function: Function


class FunctionName(Body):
    """Names a function."""

    name: str


class NamedTool(Body):
    """A choice of one tool; OpenAI's responses put the name beside the type."""

    type: Literal["function"] = "function"
    function: FunctionName

    @model_validator(mode="before")
    @classmethod
    def _nest_function_name(cls, value: Any) -> Any:
        if isinstance(value, dict) and "name" in value and "function" not in value:
            return {**value, "function": {"name": value["name"]}}
        return value


class NamedSchema(Body):
    """A JSON schema and its name, or TGI's bare schema under `value`."""

    name: str | None = None
    schema_: Json = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """What the answer must be."""

    type: Literal["text", "json_object", "json_schema", "json", "regex"]
    json_schema: NamedSchema | None = None
    value: Json = None


class TemplateVariables(Body):
    """What a request may tell the chat template; anything else is dropped."""

    enable_thinking: bool | None = None
    thinking: bool | None = None
    reasoning_effort: str | None = None


class ChatBody(CommonParameters):
    """Body of `/v1/chat/completions` and `/chat_tokenize`."""

    messages: Annotated[list[Message], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]
    logprobs: bool = False
    top_logprobs: U32 | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    tool_choice: str | NamedTool | None = None
    tool_prompt: str | None = None
    parallel_tool_calls: bool = True
    chat_template_kwargs: TemplateVariables = TemplateVariables()
    reasoning_effort: str | None = None
