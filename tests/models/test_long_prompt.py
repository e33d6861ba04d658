"""A real model takes a prompt of one long prefill, and the server lives through it."""

from __future__ import annotations

from urllib.request import urlopen

import pytest
from openai import OpenAI

from router.text.tokenizer import Tokenizer
from tests.support.processes import launched
from tests.support.public_models import public_model

pytestmark = pytest.mark.models
TOKENS = 4950
TEXT = "The quick brown fox jumps over the lazy dog, and then it sleeps. "


def test_a_prompt_longer_than_a_prefill_is_answered_without_a_restart() -> None:
    model = public_model("smollm2")
    ids = Tokenizer.load(str(model)).encode(TEXT * 400)
    prompt = [int(id) for id in ids[:TOKENS]]
    assert len(prompt) == TOKENS
    with launched(
        "--model-id", str(model), "--max-batch-prefill-tokens", "4096", "--max-total-tokens", "8192"
    ) as server:
        url = server.url()
        client = OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0, timeout=300)
        answer = client.completions.create(model="tgi", prompt=prompt, max_tokens=4, temperature=0)
        assert answer.usage
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (TOKENS, 4)
        with urlopen(f"{url}/metrics", timeout=60) as metrics:
            text = metrics.read().decode()
        assert "tgi_shard_restarts 0.0" in text
        assert "tgi_shards_ready 1.0" in text
