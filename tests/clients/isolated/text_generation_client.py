"""TGI's Python client: what its test suite expects of a server."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

from text_generation import AsyncClient, Client
from text_generation.errors import NotFoundError, ValidationError

PROMPT = "<|user|>What does shutil.copy do?<|assistant|>"
LONG = "word " * 1200
url = sys.argv[1]
client = Client(url, timeout=120)


def refuses(error: type[Exception], call: Callable[[], object]) -> bool:
    """Whether `call` raises `error`."""
    try:
        call()
    except error:
        return True
    return False


def batch_invariant(answer: Any) -> tuple[Any, ...]:
    """What does not depend on the batch; log-probabilities do, in their last digit."""
    details = answer.details
    ids = [token.id for token in details.tokens]
    return answer.generated_text, ids, details.finish_reason, details.seed


def check_generate() -> None:
    answer = client.generate(PROMPT, max_new_tokens=1, decoder_input_details=True)
    assert answer.details.finish_reason == "length", answer
    assert answer.details.generated_tokens == 1
    assert len(answer.details.prefill) > 1
    assert answer.details.prefill[0].logprob is None
    assert len(answer.details.tokens) == 1
    assert answer.details.tokens[0].text == answer.generated_text
    assert not answer.details.tokens[0].special
    assert answer.details.seed is None


def check_best_of() -> None:
    answer = client.generate(PROMPT, max_new_tokens=2, best_of=2, do_sample=True)
    assert answer.details.seed is not None
    assert answer.details.best_of_sequences is not None
    assert len(answer.details.best_of_sequences) == 1
    assert answer.details.best_of_sequences[0].seed is not None


def check_sampling() -> None:
    settings: dict[str, Any] = {
        "max_new_tokens": 10,
        "repetition_penalty": 1.1,
        "frequency_penalty": 0.1,
        "return_full_text": True,
        "seed": 7,
        "stop_sequences": ["zzz"],
        "temperature": 0.8,
        "top_k": 20,
        "top_p": 0.9,
        "truncate": 100,
        "typical_p": 0.9,
        "watermark": True,
        "top_n_tokens": 2,
    }
    first, second = (client.generate(PROMPT, **settings) for _ in range(2))
    assert batch_invariant(first) == batch_invariant(second)
    assert first.generated_text.startswith(PROMPT)
    assert len(first.details.top_tokens) == first.details.generated_tokens


def check_stream() -> None:
    events = list(client.generate_stream(PROMPT, max_new_tokens=20))
    answer = client.generate(PROMPT, max_new_tokens=20)
    assert [event.token.id for event in events] == [token.id for token in answer.details.tokens]
    assert events[-1].generated_text == answer.generated_text
    assert events[-1].details.generated_tokens == len(events)
    assert all(event.details is None for event in events[:-1])


def check_errors() -> None:
    assert refuses(ValidationError, lambda: client.generate(LONG, max_new_tokens=10_000))
    assert refuses(
        ValidationError, lambda: list(client.generate_stream(LONG, max_new_tokens=10_000))
    )
    missing = Client(f"{url}/nowhere")
    assert refuses(NotFoundError, lambda: missing.generate("a"))
    assert refuses(NotFoundError, lambda: list(missing.generate_stream("a")))


async def check_async_client() -> None:
    other = AsyncClient(url, timeout=120)
    answer = await other.generate(PROMPT, max_new_tokens=20)
    events = [event async for event in other.generate_stream(PROMPT, max_new_tokens=20)]
    assert batch_invariant(answer) == batch_invariant(client.generate(PROMPT, max_new_tokens=20))
    assert events[-1].generated_text == answer.generated_text
    together = await asyncio.gather(*(other.generate(PROMPT, max_new_tokens=20) for _ in range(4)))
    assert all(batch_invariant(each) == batch_invariant(answer) for each in together)


def check_chat() -> None:
    messages = [{"role": "user", "content": "What does shutil.copy do?"}]
    answer = client.chat(messages, max_tokens=20, temperature=0.0)
    assert answer.choices[0].message.content


check_generate()
check_best_of()
check_sampling()
check_stream()
check_errors()
asyncio.run(check_async_client())
check_chat()
