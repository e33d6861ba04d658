"""From a body of the Messages API to the equivalent chat request, or the field that is wrong. Pure.

A conversation has the results of tools inside of the user's messages; a chat has a message for
each. Blocks, tools and fields that are not supported are refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from router.anthropic.request_models import (
    AnthropicMessage,
    AnthropicTool,
    AnthropicToolChoice,
    ContentBlock,
    CountTokensRequest,
    MessagesRequest,
    TextBlock,
    ThinkingOptions,
)
from router.http.json_body import validate_body
from router.openai.request_models import ChatRequest
from router.requests.rules import require

UNSUPPORTED = ("container", "context_management", "mcp_servers")
"""Fields that may only be null or empty."""
_BLOCKS = {
    "user": ("text", "tool_result"),
    "assistant": ("text", "thinking", "tool_use"),
    "system": ("text",),
}
"""The types of blocks that the messages of a role may have."""
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_SAME_NAME = ("max_tokens", "temperature", "top_p", "top_k", "stream")


def generation_body(body: MessagesRequest, max_stops: int) -> ChatRequest:
    """The chat that `body` asks for. Raises ValidationError or BodyTypeError.

    `max_stops`: maximum number of stop sequences.
    """
    stops = body.stop_sequences or []
    require(body.max_tokens != 0, "`max_tokens` must be strictly positive")
    require(
        len(stops) <= max_stops,
        f"`stop_sequences` supports up to {max_stops} stop sequences. Given: {len(stops)}",
    )
    sampling = {name: getattr(body, name) for name in _SAME_NAME}
    return validate_body({**_prompt_fields(body), **sampling, "stop": stops}, ChatRequest)


def prompt_body(body: CountTokensRequest) -> ChatRequest:
    """The chat with the prompt of `body`. Raises ValidationError or BodyTypeError."""
    return validate_body(_prompt_fields(body), ChatRequest)


def _prompt_fields(body: CountTokensRequest) -> dict[str, Any]:
    for name in UNSUPPORTED:
        require(getattr(body, name) in (None, [], {}), f"`{name}` is not supported")
    choice, output = body.tool_choice, body.output_config
    return {
        "model": body.model,
        "messages": list(_messages(body)),
        "tools": [_tool(each, f"tools.{index}") for index, each in enumerate(body.tools or ())],
        "tool_choice": _tool_choice(choice),
        "parallel_tool_calls": not (choice and choice.disable_parallel_tool_use),
        "chat_template_kwargs": _template_variables(body.thinking),
        "reasoning_effort": output.effort,
        "response_format": output.format
        and {"type": "json_schema", "json_schema": {"schema": output.format.schema_}},
    }


def _messages(body: CountTokensRequest) -> Iterator[dict[str, Any]]:
    if body.system:
        yield {"role": "system", "content": _text(body.system, "system")}
    for index, message in enumerate(body.messages):
        path = f"messages.{index}.content"
        if isinstance(message.content, str):
            yield {"role": message.role, "content": message.content}
            continue
        _check_blocks(message, message.content, path)
        if message.role == "assistant":
            yield _assistant_message(message.content, path)
        else:
            yield from _split_messages(message.role, message.content, path)


def _check_blocks(message: AnthropicMessage, blocks: Sequence[ContentBlock], path: str) -> None:
    for index, block in enumerate(blocks):
        kind = f"`{block.type[:40]}` is not supported as a block of a message of the"
        allowed = block.type in _BLOCKS[message.role]
        require(allowed, f"`{path}.{index}`: {kind} {message.role}")


def _split_messages(
    role: str, blocks: Sequence[ContentBlock], path: str
) -> Iterator[dict[str, Any]]:
    """A message for each result of a tool, and one for each run of text between them."""
    texts: list[str] = []
    for index, block in enumerate(blocks):
        place = f"{path}.{index}"
        if block.type == "text":
            texts.append(_required(block.text, f"{place}.text"))
            continue
        if texts:
            yield {"role": role, "content": "".join(texts)}
        texts = []
        id = _required(block.tool_use_id, f"{place}.tool_use_id")
        content = _text(block.content or "", f"{place}.content")
        yield {"role": "tool", "tool_call_id": id, "content": content}
    if texts or not blocks:
        yield {"role": role, "content": "".join(texts)}


def _assistant_message(blocks: Sequence[ContentBlock], path: str) -> dict[str, Any]:
    """One message with the text, the reasoning and the calls of all blocks."""
    texts, thoughts, calls = list[str](), list[str](), list[dict[str, Any]]()
    for index, block in enumerate(blocks):
        place = f"{path}.{index}"
        if block.type == "text":
            texts.append(_required(block.text, f"{place}.text"))
        elif block.type == "thinking":
            thoughts.append(_required(block.thinking, f"{place}.thinking"))
        else:
            calls.append(_call(block, place))
    return {
        "role": "assistant",
        "content": "".join(texts) if texts or not calls else None,
        "reasoning_content": "".join(thoughts) or None,
        "tool_calls": calls or None,
    }


def _call(block: ContentBlock, path: str) -> dict[str, Any]:
    name = _required(block.name, f"{path}.name")
    function = {"name": name, "arguments": block.input or {}}
    return {"id": _required(block.id, f"{path}.id"), "type": "function", "function": function}


def _text(content: str | Sequence[TextBlock], path: str) -> str:
    if isinstance(content, str):
        return content
    for index, block in enumerate(content):
        kind = f"`{block.type[:40]}` is not supported here"
        require(block.type == "text", f"`{path}.{index}`: {kind}")
    return "".join(
        _required(block.text, f"{path}.{index}.text") for index, block in enumerate(content)
    )


def _required(value: str | None, path: str) -> str:
    require(value is not None, f"`{path}` is required")
    return value or ""


def _tool(tool: AnthropicTool, path: str) -> dict[str, Any]:
    kind = f"`{tool.type[:40]}` is not supported as a tool"
    require(tool.type == "custom", f"`{path}.type`: {kind}")
    fields = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.input_schema,
    }
    return {"type": "function", "function": fields}


def _tool_choice(choice: AnthropicToolChoice | None) -> Any:
    if choice is None:
        return None
    if choice.type != "tool":
        return _CHOICES[choice.type]
    name = _required(choice.name, "tool_choice.name")
    return {"type": "function", "function": {"name": name}}


def _template_variables(thinking: ThinkingOptions | None) -> dict[str, Any]:
    """Whether to reason, by the names of Qwen's and of DeepSeek's templates."""
    if thinking is None or thinking.type == "adaptive":
        return {}
    enabled = thinking.type == "enabled"
    return {"enable_thinking": enabled, "thinking": enabled}
