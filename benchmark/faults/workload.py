"""Streaming requests that use everything that a row may depend on, with fixed seeds.

Rule: decides bodies only. Their answers must be the same however often the shards are lost.
"""

from __future__ import annotations

from random import Random
from typing import Any

from benchmark.demo.prompts import SYSTEM, prompts

REGEX = {"type": "regex", "value": "[a-z ]{20,60}\\."}
SCHEMA = {
    "type": "json",
    "value": {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "size": {"type": "integer"}},
        "required": ["name", "size"],
    },
}
KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"do_sample": True, "temperature": 0.8, "top_p": 0.9},
    {"do_sample": True, "top_k": 40, "repetition_penalty": 1.2, "frequency_penalty": 0.3},
    {"grammar": REGEX},
    {"grammar": SCHEMA, "do_sample": True, "temperature": 1.2},
    {"top_n_tokens": 3},
    {"speculate": 0, "do_sample": True, "typical_p": 0.9},
    {"watermark": True, "stop": ["return", "the "]},
)
"""Parameters of one kind of request each."""
SHARED_PREFIX = f"{SYSTEM}" + "You answer in one sentence and name the module. " * 12
"""Every third prompt starts with this, in pages that its requests share."""


def bodies(count: int, seed: int) -> list[dict[str, Any]]:
    """`count` bodies for `/generate_stream`, of all kinds in turn."""
    random = Random(seed)  # noqa: S311 - no secret is drawn
    return [
        {
            "inputs": (SHARED_PREFIX if number % 3 == 0 else "") + prompt.text,
            "parameters": {
                **KINDS[number % len(KINDS)],
                "seed": number,
                "details": True,
                "max_new_tokens": random.randint(24, 96),
            },
        }
        for number, prompt in enumerate(prompts(None, count, seed))
    ]
