"""LiteLLM's ways to this server: as an OpenAI server, and as vLLM is called."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else prices are fetched

import litellm

MESSAGES = [{"role": "user", "content": "What does shutil.copy do?"}]
url = sys.argv[1]
litellm.telemetry = False


def call_arguments(provider: str, **more: Any) -> dict[str, Any]:
    return {
        "model": f"{provider}/tgi",
        "api_base": f"{url}/v1",
        "api_key": "none",
        "messages": MESSAGES,
        "max_tokens": 20,
        "temperature": 0.0,
        **more,
    }


async def complete_async(provider: str) -> Any:
    return await litellm.acompletion(**call_arguments(provider))


for provider in ("openai", "hosted_vllm"):
    answer = litellm.completion(**call_arguments(provider))
    text = answer.choices[0].message.content
    assert text, answer
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.completion_tokens <= 20
    assert asyncio.run(complete_async(provider)).choices[0].message.content == text
    usage = {"stream_options": {"include_usage": True}}
    chunks = list(litellm.completion(**call_arguments(provider, stream=True, **usage)))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
    assert any(getattr(chunk, "usage", None) for chunk in chunks)
try:
    litellm.completion(**call_arguments("openai", temperature=-1.0))
except litellm.BadRequestError as error:
    refusal = str(error)
else:
    refusal = ""
assert "temperature" in refusal, refusal
