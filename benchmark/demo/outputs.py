"""What a model writes after a prompt, many prompts at a time.

Rule: decides batching and where an output stops; must not know what the outputs are for.
Prompts of like length share a batch, so little of it is padding.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from benchmark.demo.prompts import Prompt
from benchmark.demo.tokenizer import END_ID, PAD_ID

BATCH = 64


@dataclass(frozen=True)
class Output:
    """A prompt, its token ids, and the ids written after it, the end token included if written."""

    prompt: Prompt
    prompt_ids: list[int]
    ids: list[int]
    ended: bool


def outputs(
    model: LlamaForCausalLM,
    tokenizer: Tokenizer,
    prompts: list[Prompt],
    limit: int,
    temperature: float = 0.0,
) -> Iterator[Output]:
    """Up to `limit` tokens per prompt, greedy at temperature 0, sampled above; any order."""
    ordered = sorted(prompts, key=lambda prompt: (prompt.family, len(prompt.text)))
    for start in range(0, len(ordered), BATCH):
        yield from _batch(model, tokenizer, ordered[start : start + BATCH], limit, temperature)


def _batch(
    model: LlamaForCausalLM,
    tokenizer: Tokenizer,
    prompts: list[Prompt],
    limit: int,
    temperature: float,
) -> Iterator[Output]:
    ids = [tokenizer.encode(prompt.text).ids for prompt in prompts]
    width = max(map(len, ids))
    left = torch.tensor([[PAD_ID] * (width - len(row)) + row for row in ids])
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0}
    generator: Any = model  # generate is typed for a protocol that Llama does not meet
    written: torch.Tensor = generator.generate(
        input_ids=left,
        attention_mask=left.ne(PAD_ID).long(),
        max_new_tokens=limit,
        eos_token_id=END_ID,
        pad_token_id=PAD_ID,
        **(sampling if temperature > 0 else {"do_sample": False}),
    )
    for prompt, row, new in zip(prompts, ids, written[:, width:].tolist(), strict=True):
        ended = END_ID in new
        yield Output(prompt, row, new[: new.index(END_ID) + 1] if ended else new, ended)
