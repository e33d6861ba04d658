"""The two losses of the demo models, over packed rows.

Rule: decides what is minimised; must not know the data or the optimiser. Both run the model
in bfloat16 and the loss itself in float32.

Source of the distillation loss: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural
Network", 2015, section 2, at temperature 1.
"""

import shutil
from collections.abc import Callable
from functools import partial

import torch
from torch.nn.functional import cross_entropy, log_softmax
from transformers import LlamaForCausalLM

from benchmark.demo.corpus import IGNORED, PackedRows

Loss = Callable[[PackedRows], torch.Tensor]


def next_token_loss(model: LlamaForCausalLM, rows: PackedRows) -> torch.Tensor:
    """Mean cross-entropy in nats of the targets that are not ignored, a scalar."""
    flat, targets = row_logits(model, rows).flatten(0, 1), rows.targets.flatten()
    return cross_entropy(flat, targets, ignore_index=IGNORED)


def distillation_loss(
    draft: LlamaForCausalLM, target: LlamaForCausalLM, rows: PackedRows
) -> torch.Tensor:
    """Mean KL divergence of the draft from the target in nats, over the targets not ignored."""
    with torch.no_grad():
        wanted = log_softmax(row_logits(target, rows), -1)
    guessed = log_softmax(row_logits(draft, rows), -1)
    divergence = (wanted.exp() * (wanted - guessed)).sum(-1)
    counted = rows.targets != IGNORED
    return (divergence * counted).sum() / counted.sum()


def row_logits(model: LlamaForCausalLM, rows: PackedRows) -> torch.Tensor:
    """float32 [rows, length, vocabulary], each document seeing itself only."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(
            input_ids=rows.ids,
            attention_mask=rows.mask(),
            position_ids=rows.positions,
            use_cache=False,
        )
    logits: torch.Tensor = output.logits
    return logits.float()


def compiled(function: Callable[..., torch.Tensor], *models: LlamaForCausalLM) -> Loss:
    """The loss of `models`, compiled where g++ is at hand: half again as many tokens/s."""
    return partial(torch.compile(function) if shutil.which("g++") else function, *models)
