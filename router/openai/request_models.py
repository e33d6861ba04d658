"""Request bodies of OpenAI's routes: strict models, of which the OpenAPI document is made.

As on the native routes, unknown fields are ignored and null equals absent. What the values mean
together is decided elsewhere.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Discriminator, Field, Tag, model_validator

from router.http.json_body import U32, Body, Float32, Json, JsonOrText, StringList
from router.native.parameters import SharedParameters
from router.openai.unsupported_fields import CHAT_FIELDS, COMPLETION_FIELDS, RefusesFields

MAX_MESSAGES = 4096
MAX_TOOLS = 256
MAX_FUNCTION_NAME = 256
"""Maximum number of characters."""
MAX_LOGIT_BIASES = 1024

ModelName = Annotated[str, Field(max_length=256)]
"""Bounded, as every chunk of a stream repeats it."""
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
    """Options of a streamed response."""

    include_usage: bool = False
    """Send a last chunk with the token usage of the whole request."""
    continuous_usage_stats: bool = False
    """Include the token usage so far in every chunk."""


class CommonParameters(SharedParameters, RefusesFields):
    """Parameters that chats and completions have in common."""

    model: ModelName | None = None
    """Name to return as the response's `model`. That of a LoRA adapter selects it."""
    max_tokens: U32 | None = None
    """Maximum number of tokens to generate. Defaults to the model's `max_new_tokens`, or as many as
    fit into the context; on `/v1/completions` to 16."""
    max_completion_tokens: U32 | None = None
    """OpenAI's newer name of `max_tokens`, which it overrides."""
    min_p: Float32 | None = None
    """Sample only from tokens at least `min_p` times as likely as the most likely one. Between 0
    and 1."""
    presence_penalty: Float32 | None = None
    """Subtracted once from the score of every token that is in the output so far. Between -2 and
    2."""
    logit_bias: Annotated[dict[str, Float32], Field(fail_fast=True)] | list[Json] | None = None
    """Map from token id to a value between -100 and 100 that is added to the token's score. A
    list is ignored."""
    n: U32 | None = None
    """Number of choices to generate for each prompt; defaults to 1."""
    stop: str | StringList | None = None
    """Stop generating before any of these strings."""
    seed: Seed | None = None
    """Sampling seed; choices of one request get different seeds derived from it."""
    stream: bool = False
    """Whether to stream the response as server-sent events."""
    stream_options: StreamOptions = StreamOptions()
    """Options of a streamed response."""

    @property
    def token_limit_field(self) -> str:
        """Name of the field that limits the number of tokens."""
        return "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"

    @property
    def token_limit(self) -> int | None:
        """Value of the field that limits the number of tokens; None if it is not set."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class CompletionRequest(CommonParameters):
    """Body of `/v1/completions`."""

    unsupported_fields = COMPLETION_FIELDS

    prompt: PromptInput
    """One prompt or several, each a string or a list of token ids."""
    suffix: str | None = None
    """Not supported: a request with a suffix is rejected."""
    logprobs: U32 | None = None
    """Return the log-probabilities of the generated tokens and of this many most likely tokens at
    each position."""
    echo: bool = False
    """Prepend the prompt to the generated text."""
    best_of: U32 | None = None
    """Must equal `n`, or be 1."""


class Part(Body):
    """A part of a message's content."""

    type: str
    """Kind of content: `text`, `input_text`, `output_text` or `refusal`. Images are rejected."""
    text: str | None = None
    """The text."""
    refusal: str | None = None
    """The text of a `refusal`."""


ContentParts = Annotated[list[Part], Field(fail_fast=True)]


class CalledFunction(Body):
    """The function and the arguments of an earlier tool call."""

    name: str
    """Name of the function."""
    arguments: JsonOrText = Field(
        default=None, validation_alias=AliasChoices("arguments", "parameters")
    )
    """Arguments of the call, as JSON text or as an object."""


class EarlierCall(Body):
    """A tool call that the assistant made in an earlier turn."""

    id: str | None = None
    """Id of the call."""
    type: str = "function"
    """Kind of tool; always `function`."""
    function: CalledFunction
    """The function that was called."""


class Message(Body):
    """One message of a chat."""

    role: str
    """Author of the message: `system`, `developer`, `user`, `assistant`, `tool` or `function`."""
    content: str | ContentParts | None = None
    """Content of the message, as text or as a list of text parts."""
    name: str | None = None
    """Name of the author, passed on to the chat template."""
    tool_calls: Annotated[list[EarlierCall], Field(fail_fast=True)] | None = None
    """Tool calls made by this assistant message."""
    function_call: CalledFunction | None = None
    """OpenAI's older form of one tool call."""
    tool_call_id: str | None = None
    """Id of the tool call that this `tool` message answers."""
    refusal: str | None = None
    """Content of an assistant message that refused; used if there is no `content`."""
    reasoning_content: str | None = Field(
        default=None, validation_alias=AliasChoices("reasoning_content", "reasoning")
    )
    """Reasoning that preceded this assistant message, passed on to the chat template. Also accepted
    as `reasoning`."""


class Function(Body):
    """A function that the model may call."""

    name: Annotated[str, Field(min_length=1, max_length=MAX_FUNCTION_NAME)]
    """Name of the function."""
    description: str | None = None
    """What the function does, for the model to read."""
    parameters: dict[str, Json] | None = Field(
        default=None, validation_alias=AliasChoices("parameters", "arguments")
    )
    """JSON schema of the function's arguments."""
    strict: bool | None = None
    """Passed on to the chat template. A required call always matches its schema."""


class Tool(Body):
    """A tool that the model may call."""

    type: Literal["function"] = "function"
    """Kind of tool; always `function`."""
    function: Function
    """The function."""


class FunctionName(Body):
    """The name of a function."""

    name: str
    """Name of the function."""


class NamedTool(Body):
    """The one tool to call. The Responses API puts the name next to the type."""

    type: Literal["function"] = "function"
    """Kind of tool; always `function`."""
    function: FunctionName
    """The function to call."""

    @model_validator(mode="before")
    @classmethod
    def _nest_function_name(cls, value: Any) -> Any:
        if isinstance(value, dict) and "name" in value and "function" not in value:
            return {**value, "function": {"name": value["name"]}}
        return value


class NamedSchema(Body):
    """A JSON schema with a name."""

    name: str | None = None
    """Name of the schema; not used."""
    schema_: Json = Field(default=None, alias="schema")
    """The JSON schema that the output must match."""
    strict: bool | None = None
    """Not used: the output always matches the schema."""


class ResponseFormat(Body):
    """The format that the output must have."""

    type: Literal["text", "json_object", "json_schema", "json", "regex"]
    """Kind of format; `text` is unconstrained."""
    json_schema: NamedSchema | None = None
    """The schema, in OpenAI's form."""
    schema_: Json = Field(default=None, alias="schema")
    """The schema, next to `type`."""
    value: Json = None
    """The schema or the regular expression, in TGI's form."""


class TemplateVariables(Body):
    """Variables for the chat template; any other is ignored."""

    enable_thinking: bool | None = None
    """Whether the model should reason before it answers, as Qwen's templates name it."""
    thinking: bool | None = None
    """Whether the model should reason before it answers, as DeepSeek's templates name it."""
    reasoning_effort: str | None = None
    """How much the model should reason."""


class ChatRequest(CommonParameters):
    """Body of `/v1/chat/completions` and `/chat_tokenize`."""

    unsupported_fields = CHAT_FIELDS

    messages: Annotated[list[Message], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]
    """The messages of the chat so far."""
    logprobs: bool = False
    """Return the log-probabilities of the generated tokens."""
    top_logprobs: U32 | None = None
    """Return the N most likely tokens at each position. Requires `logprobs`."""
    response_format: ResponseFormat | None = None
    """The format that the output must have."""
    tools: Annotated[list[Tool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    """Tools that the model may call."""
    tool_choice: str | NamedTool | None = None
    """Which tool to call: `none`, `auto`, `required`, or the name of one tool."""
    tool_prompt: str | None = None
    """Instruction put after the tools if the chat template does not support tools."""
    parallel_tool_calls: bool = True
    """Whether the model may call several tools in one message."""
    add_generation_prompt: bool | None = None
    """Whether the prompt ends with the start of an assistant message. True unless the last message
    is continued."""
    continue_final_message: bool | None = None
    """Whether the output continues the last message. By default it does if that is a message of the
    assistant with content and without tool calls, and `add_generation_prompt` is not true."""
    chat_template_kwargs: TemplateVariables = TemplateVariables()
    """Variables for the chat template."""
    reasoning_effort: str | None = None
    """How much the model should reason, passed on to the chat template."""
