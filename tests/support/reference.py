"""What transformers itself computes: greedy tokens, and the scores of one row.

Its processors and warpers run in the order that the server promises.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
    WatermarkLogitsProcessor,
)

from shard.sampling.sampler import Position
from shard.wire.protocol import Sampling
from tests.support.driver import RowSpec


def generate_greedily(path: str, spec: RowSpec) -> list[int]:
    """The tokens that the model in `path` generates, its repetition penalty included."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    ids = torch.tensor([spec.prompt])
    out = loaded.eval().generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=spec.max_new,
        do_sample=False,
        repetition_penalty=spec.sampling.repetition_penalty,
    )
    tokens: list[int] = out[0, len(spec.prompt) :].tolist()
    return tokens


def choose_greedily(path: str, spec: RowSpec, tokens: list[int]) -> list[int]:
    """The token that the model in `path` chooses at each place of `tokens`.

    They are `tokens` exactly if `generate_greedily` returns these, and take one forward pass.
    """
    loaded: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    return greedy_choices(loaded.eval(), spec, tokens)


@torch.inference_mode()
def greedy_choices(model: Any, spec: RowSpec, tokens: list[int]) -> list[int]:
    """The same for a loaded model."""
    assert len(tokens) == spec.max_new or tokens[-1] == model.generation_config.eos_token_id
    ids = torch.tensor([[*spec.prompt, *tokens]])
    logits = model(input_ids=ids, use_cache=False).logits[0].float()
    penalize = RepetitionPenaltyLogitsProcessor(spec.sampling.repetition_penalty)
    return [
        int(penalize(ids[:, :place], logits[None, place - 1])[0].argmax())
        for place in range(len(spec.prompt), ids.shape[1])
    ]


class Penalties(LogitsProcessor):
    """OpenAI's additive penalties, token by token; transformers has none."""

    def __init__(self, sampling: Sampling, output: list[int]) -> None:
        self.sampling, self.output = sampling, output

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.clone()
        for token, count in Counter(self.output).items():
            scores[0, token] -= self.sampling.frequency_penalty * count
            scores[0, token] -= self.sampling.presence_penalty
        return scores


def reference(logits: Tensor, position: Position, eos: list[int]) -> Tensor:
    """Scores [V] of `logits` [V]."""
    ids = torch.tensor([[*position.tokens, *position.drafts]])
    scores = logits[None].clone()
    for processor in _processors(position, eos, len(logits)):
        scores = processor(ids, scores)
    return scores[0]


def _processors(position: Position, eos: list[int], vocabulary: int) -> Iterator[LogitsProcessor]:
    sampling = position.sampling
    if sampling.watermark:
        yield WatermarkLogitsProcessor(vocabulary, "cpu", greenlist_ratio=0.5, bias=2.0)
    if sampling.repetition_penalty != 1:
        yield RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)
    yield Penalties(sampling, position.output)
    if sampling.bias:
        yield SequenceBiasLogitsProcessor([[[each.token], each.value] for each in sampling.bias])
    yield MinNewTokensLengthLogitsProcessor(position.prompt_length, sampling.min_new_tokens, eos)
    if sampling.temperature:
        yield from _warpers(sampling)


def _warpers(sampling: Sampling) -> Iterator[LogitsProcessor]:
    yield TemperatureLogitsWarper(sampling.temperature)
    if sampling.top_k:
        yield TopKLogitsWarper(sampling.top_k)
    if sampling.top_p < 1:
        yield TopPLogitsWarper(sampling.top_p)
    if sampling.typical_p < 1:
        yield TypicalLogitsWarper(sampling.typical_p)
    if sampling.min_p:
        yield MinPLogitsWarper(sampling.min_p)
