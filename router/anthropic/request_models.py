"""Request bodies of the Messages API: strict models, of which the OpenAPI document is made.

As on the other routes, unknown fields are ignored and null equals absent. What the values mean
together, and which of them are not supported, is decided in `chat_body`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from router.http.json_body import I32, U32, Body, Float32, Json, StringList
from router.openai.request_models import MAX_FUNCTION_NAME, MAX_MESSAGES, MAX_TOOLS, ModelName


class TextBlock(Body):
    """A block of the system prompt, or of a tool's result."""

    type: str
    """Kind of block; only `text` is supported."""
    text: str | None = None
    """The text."""


TextBlocks = Annotated[list[TextBlock], Field(fail_fast=True)]


class ContentBlock(Body):
    """A block of a message's content."""

    type: str
    """Kind of block: `text`, `thinking`, `tool_use` or `tool_result`. Images and others are
    rejected."""
    text: str | None = None
    """Text of a `text` block."""
    thinking: str | None = None
    """Reasoning of a `thinking` block, passed on to the chat template."""
    id: str | None = None
    """Id of a `tool_use` block."""
    name: str | None = None
    """Name of the tool that a `tool_use` block calls."""
    input: dict[str, Json] | None = None
    """Arguments of a `tool_use` block."""
    tool_use_id: str | None = None
    """Id of the `tool_use` block that a `tool_result` block answers."""
    content: str | TextBlocks | None = None
    """Content of a `tool_result` block, as text or as a list of text blocks."""
    is_error: bool = False
    """Whether the tool failed. Not used: the content has to say so."""


class AnthropicMessage(Body):
    """One message of the conversation."""

    role: Literal["user", "assistant", "system"]
    """Author of the message."""
    content: str | Annotated[list[ContentBlock], Field(fail_fast=True)]
    """Content of the message, as text or as a list of blocks."""


class AnthropicTool(Body):
    """A tool that the model may call."""

    type: str = "custom"
    """Kind of tool; only `custom` is supported."""
    name: Annotated[str, Field(min_length=1, max_length=MAX_FUNCTION_NAME)]
    """Name of the tool."""
    description: str | None = None
    """What the tool does, for the model to read."""
    input_schema: dict[str, Json] | None = None
    """JSON schema of the tool's arguments."""


class AnthropicToolChoice(Body):
    """Which tool to call."""

    type: Literal["auto", "any", "tool", "none"]
    """`auto`: the model decides. `any`: one of the tools. `tool`: the one called `name`. `none`:
    no tool."""
    name: str | None = None
    """Name of the tool to call."""
    disable_parallel_tool_use: bool = False
    """Call at most one tool."""


class ThinkingOptions(Body):
    """Options of the model's reasoning."""

    type: Literal["enabled", "disabled", "adaptive"]
    """Whether the model should reason, passed on to the chat template."""
    budget_tokens: U32 | None = None
    """Not used: `max_tokens` limits reasoning and text together."""


class OutputFormat(Body):
    """The format that the text must have."""

    type: Literal["json_schema"]
    """Kind of format; always `json_schema`."""
    schema_: Json = Field(default=None, alias="schema")
    """The JSON schema that the text must match."""


class OutputOptions(Body):
    """Options of the output."""

    format: OutputFormat | None = None
    """The format that the text must have."""
    effort: Annotated[str, Field(max_length=64)] | None = None
    """How much the model should reason, passed on to the chat template."""


class CountTokensRequest(Body):
    """Body of `/v1/messages/count_tokens`."""

    model: ModelName | None = None
    """Name to return as the message's `model`. The server always uses the model it serves."""
    messages: Annotated[
        list[AnthropicMessage], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)
    ]
    """The messages of the conversation so far. If the last one is the assistant's, the output
    continues it."""
    system: str | TextBlocks | None = None
    """System prompt, as text or as a list of text blocks."""
    tools: Annotated[list[AnthropicTool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    """Tools that the model may call."""
    tool_choice: AnthropicToolChoice | None = None
    """Which tool to call; by default the model decides."""
    thinking: ThinkingOptions | None = None
    """Options of the model's reasoning."""
    output_config: OutputOptions = OutputOptions()
    """Options of the output."""
    container: Json = None
    """Not supported: a request with a container is rejected."""
    context_management: Json = None
    """Not supported: a request with context management is rejected."""
    mcp_servers: Json = None
    """Not supported: a request with MCP servers is rejected."""


class MessagesRequest(CountTokensRequest):
    """Body of `/v1/messages`."""

    max_tokens: U32
    """Maximum number of tokens to generate."""
    stop_sequences: StringList | None = None
    """Stop generating before any of these strings."""
    temperature: Float32 | None = None
    """Sampling temperature: higher values make the output more random, 0 means greedy decoding.
    Defaults to the model's, or 1."""
    top_p: Float32 | None = None
    """Nucleus sampling: sample from the smallest set of most likely tokens whose probabilities
    add up to `top_p`. Above 0, at most 1."""
    top_k: I32 | None = None
    """Sample from the k most likely tokens only; 0 and -1 keep all tokens."""
    stream: bool = False
    """Whether to stream the message as server-sent events."""
    metadata: Json = None
    """Not used."""
    service_tier: Json = None
    """Not used."""
