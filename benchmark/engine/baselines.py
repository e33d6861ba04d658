"""transformers' generation methods, as baselines for the engine.

Rule: decides how transformers is called, with the fastest settings of each method: all work that
can be done before a request is done before. Must not know what it is compared with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    ContinuousBatchingConfig,
    GenerationConfig,
)

Prompts = Sequence[Sequence[int]]
Answers = list[list[int]]
_TIMEOUT = 600.0
_PAGE = 256


def load(path: str) -> Any:
    """A model in float32 with transformers' default attention."""
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    return model.eval()


def generate(model: Any, prompts: Prompts, max_new: int, **more: Any) -> Answers:
    """Call `generate` for one prompt after the other, greedily."""
    answers = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new,
            do_sample=False,
            **more,
        )
        answers.append(out[0, len(prompt) :].tolist())
    return answers


def static_batch(model: Any, prompts: Prompts, max_new: int) -> Answers:
    """Call `generate` for all prompts in one padded batch."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    out = model.generate(ids, attention_mask=mask, max_new_tokens=max_new, do_sample=False)
    ends = model.generation_config.eos_token_id
    return [_up_to_end(row.tolist(), ends) for row in out[:, width:]]


def _up_to_end(tokens: list[int], end: int | None) -> list[int]:
    return tokens[: tokens.index(end) + 1] if end is not None and end in tokens else tokens


def assisted(model: Any, draft: Any, prompts: Prompts, max_new: int, draft_length: int) -> Answers:
    """Assisted generation; `draft_length` drafts per round, or transformers' heuristic at 0."""
    settings: Any = GenerationConfig
    fresh = settings(
        eos_token_id=model.generation_config.eos_token_id,
        pad_token_id=model.generation_config.pad_token_id,
    )
    if draft_length:
        fresh.num_assistant_tokens = draft_length
        fresh.num_assistant_tokens_schedule = "constant"
        fresh.assistant_confidence_threshold = 0.0
    draft.generation_config = fresh
    return generate(model, prompts, max_new, assistant_model=draft)


class ContinuousBatching:
    """transformers' continuous batching, by a manager that keeps running."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager

    def __call__(self, prompts: Prompts, max_new: int) -> Answers:
        """Answer all prompts at once. Raises RuntimeError if one does not finish."""
        ids = self._manager.add_requests([list(p) for p in prompts], max_new_tokens=max_new)
        done: dict[str, list[int]] = {}
        while len(done) < len(ids):
            result = self._manager.get_result(timeout=_TIMEOUT)
            if result is None or result.error:
                raise RuntimeError(f"continuous batching stopped: {result and result.error}")
            if result.is_finished():
                done[result.request_id] = list(result.generated_tokens)
        return [done[id] for id in ids]


@contextmanager
def continuous(path: str, tokens: int, rows: int) -> Iterator[ContinuousBatching]:
    """Start continuous batching of the model at `path`, sized for `rows` rows of `tokens` tokens.

    Prefix sharing is off: rounds repeat the same prompts, which real requests rarely do.
    """
    model: Any = load(path)
    config = ContinuousBatchingConfig(
        num_blocks=rows * -(-tokens // _PAGE),
        max_batch_tokens=rows * tokens,
        allow_block_sharing=False,
    )
    settings: Any = GenerationConfig
    greedy = settings(
        do_sample=False, eos_token_id=model.generation_config.eos_token_id, max_new_tokens=tokens
    )
    with model.continuous_batching_context_manager(
        generation_config=greedy, continuous_batching_config=config
    ) as manager:
        yield ContinuousBatching(manager)
