"""The heaviest requests that a server with the default limits takes in, or refuses after a look.

Rule: decides bodies only. Each has nearly 2,000,000 bytes, the largest payload, or as many values
or tokens as are allowed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

SIZE = 1_900_000
"""Bytes of a long text."""
VALUES = 65_000
"""Values of a crowded body; the server takes 65,536."""
LINE = "def add(left, right):\n    return left + right  # 加\n"


@dataclass(frozen=True, slots=True)
class Heavy:
    """One request and the status that it must have."""

    name: str
    path: str
    body: bytes
    status: int


def heavy_requests(length: int) -> list[Heavy]:
    """All of them, for a server whose requests have at most `length` tokens."""
    return [*_long_texts(), *_full_prompts(length - 1000), *_crowds(), *_structures()]


def _long_texts() -> list[Heavy]:
    """Prompts that are too long, and are tokenised before that is known."""
    text = LINE * (SIZE // len(json.dumps(LINE, ensure_ascii=False).encode()))
    chat = {"messages": [{"role": "user", "content": text}]}
    return [
        _heavy("a long prompt", "/generate", {"inputs": text}, 422),
        _heavy("a long completion", "/v1/completions", {"prompt": text}, 422),
        _heavy("a long chat", "/v1/chat/completions", chat, 422),
        _heavy("a long text's tokens", "/tokenize", {"inputs": text}, 200),
        _heavy("a long chat's tokens", "/chat_tokenize", chat, 200),
    ]


def _full_prompts(tokens: int) -> list[Heavy]:
    """Prompts that nearly fill a request, and are served."""
    ids: dict[str, Any] = {"prompt": [100] * tokens, "max_tokens": 1}
    told = {**ids, "prompt": [100] * 8192, "echo": True, "logprobs": 5}
    parameters = {"truncate": tokens, "max_new_tokens": 1}
    text = {"inputs": LINE * (tokens // 20), "parameters": parameters}
    return [
        _heavy("a full prompt", "/generate", text, 200),
        _heavy("a full prompt of ids", "/v1/completions", ids, 200),
        _heavy("a long prompt told again", "/v1/completions", told, 200),
    ]


def _crowds() -> list[Heavy]:
    """Bodies of very many values."""
    stops = {"inputs": "a", "parameters": {"stop": ["a"] * VALUES}}
    wrong = {"inputs": "a", "parameters": {"stop": [1] * VALUES}}
    bias = {str(id): 1 for id in range(VALUES)}
    return [
        Heavy("a million lists", "/generate", b'{"inputs":[' + b"[]," * 600_000 + b"0]}", 422),
        Heavy("lists unread", "/tokenize", b'{"inputs":"a","x":[' + b"[]," * 32_000 + b"0]}", 200),
        _heavy("stops", "/generate", stops, 422),
        _heavy("wrong stops", "/generate", wrong, 422),
        _heavy("biases", "/v1/completions", {"prompt": "a", "logit_bias": bias}, 422),
        _heavy("parts", "/v1/chat/completions", _chat([_text("a")] * 21_000), 200),
        _heavy("instances", "/vertex", {"instances": [{"inputs": "a"}] * 32_000}, 422),
    ]


def _structures() -> list[Heavy]:
    """Schemas, tools and turns that are as large as they may be."""
    fields = {f"field{number}": {"type": "string"} for number in range(5000)}
    schema = {"type": "object", "properties": fields}
    grammar = {"grammar": {"type": "json", "value": schema}, "max_new_tokens": 8}
    functions = [{"name": f"tool{number}", "parameters": schema} for number in range(6)]
    tools = [{"type": "function", "function": function} for function in functions]
    turns = [{"role": "user", "content": "a" * 400}] * 4096
    asked = {"input": "a", "max_output_tokens": 8, "stream": True}
    flat = [{"type": "function", **function} for function in functions]
    return [
        _heavy("a schema", "/generate", {"inputs": "a", "parameters": grammar}, 422),
        _heavy("tools", "/v1/chat/completions", {**_chat("a"), "tools": tools}, 422),
        _heavy("turns", "/v1/chat/completions", {"messages": turns}, 422),
        _heavy("tools of a response", "/v1/responses", {**asked, "tools": flat}, 422),
    ]


def _chat(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 8}


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _heavy(name: str, path: str, body: Any, status: int) -> Heavy:
    return Heavy(name, path, json.dumps(body, ensure_ascii=False).encode(), status)
