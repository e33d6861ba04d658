"""The heaviest requests that a server with default limits accepts, or parses before refusing.

Rule: decides bodies only. Each has nearly 2,000,000 bytes, the payload limit, or as many values or
tokens as are allowed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

TEXT_BYTES = 1_900_000
"""Size of a long text."""
VALUE_COUNT = 65_000
"""Values in one body; the server accepts 65,536."""
LINE = "def add(left, right):\n    return left + right  # 加\n"


@dataclass(frozen=True, slots=True)
class HeavyRequest:
    """One request and the status of its response."""

    name: str
    path: str
    body: bytes
    status: int


def heavy_requests(length: int) -> list[HeavyRequest]:
    """All heavy requests, for a server whose requests have at most `length` tokens."""
    return [*_long_texts(), *_full_prompts(length - 1000), *_many_values(), *_structures()]


def _long_texts() -> list[HeavyRequest]:
    """Prompts that are too long, which the server knows only after tokenizing them."""
    text = LINE * (TEXT_BYTES // len(json.dumps(LINE, ensure_ascii=False).encode()))
    chat = {"messages": [{"role": "user", "content": text}]}
    return [
        _json_request("a long prompt", "/generate", {"inputs": text}, 422),
        _json_request("a long completion", "/v1/completions", {"prompt": text}, 422),
        _json_request("a long chat", "/v1/chat/completions", chat, 422),
        _json_request("a long text's tokens", "/tokenize", {"inputs": text}, 200),
        _json_request("a long chat's tokens", "/chat_tokenize", chat, 200),
    ]


def _full_prompts(tokens: int) -> list[HeavyRequest]:
    """Prompts that nearly fill a request and are served."""
    ids: dict[str, Any] = {"prompt": [100] * tokens, "max_tokens": 1}
    echoed = {**ids, "prompt": [100] * 8192, "echo": True, "logprobs": 5}
    parameters = {"truncate": tokens, "max_new_tokens": 1}
    text = {"inputs": LINE * (tokens // 20), "parameters": parameters}
    return [
        _json_request("a full prompt", "/generate", text, 200),
        _json_request("a full prompt of ids", "/v1/completions", ids, 200),
        _json_request("a long prompt echoed", "/v1/completions", echoed, 200),
    ]


def _many_values() -> list[HeavyRequest]:
    """Bodies of many values."""
    stops = {"inputs": "a", "parameters": {"stop": ["a"] * VALUE_COUNT}}
    wrong = {"inputs": "a", "parameters": {"stop": [1] * VALUE_COUNT}}
    bias = {str(id): 1 for id in range(VALUE_COUNT)}
    return [
        HeavyRequest(
            "a million lists", "/generate", b'{"inputs":[' + b"[]," * 600_000 + b"0]}", 422
        ),
        HeavyRequest(
            "lists in an unknown field",
            "/tokenize",
            b'{"inputs":"a","x":[' + b"[]," * 32_000 + b"0]}",
            200,
        ),
        _json_request("stops", "/generate", stops, 422),
        _json_request("wrong stops", "/generate", wrong, 422),
        _json_request("biases", "/v1/completions", {"prompt": "a", "logit_bias": bias}, 422),
        _json_request("parts", "/v1/chat/completions", _chat([_text("a")] * 21_000), 200),
        _json_request("instances", "/vertex", {"instances": [{"inputs": "a"}] * 32_000}, 422),
    ]


def _structures() -> list[HeavyRequest]:
    """Schemas, tools and conversations of the maximum size."""
    fields = {f"field{number}": {"type": "string"} for number in range(5000)}
    schema = {"type": "object", "properties": fields}
    grammar = {"grammar": {"type": "json", "value": schema}, "max_new_tokens": 8}
    functions = [{"name": f"tool{number}", "parameters": schema} for number in range(6)]
    tools = [{"type": "function", "function": function} for function in functions]
    turns = [{"role": "user", "content": "a" * 400}] * 4096
    response = {"input": "a", "max_output_tokens": 8, "stream": True}
    flat = [{"type": "function", **function} for function in functions]
    return [
        _json_request("a schema", "/generate", {"inputs": "a", "parameters": grammar}, 422),
        _json_request("tools", "/v1/chat/completions", {**_chat("a"), "tools": tools}, 422),
        _json_request("turns", "/v1/chat/completions", {"messages": turns}, 422),
        _json_request("tools of a response", "/v1/responses", {**response, "tools": flat}, 422),
    ]


def _chat(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 8}


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _json_request(name: str, path: str, body: Any, status: int) -> HeavyRequest:
    return HeavyRequest(name, path, json.dumps(body, ensure_ascii=False).encode(), status)
