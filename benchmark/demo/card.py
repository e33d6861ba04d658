"""The model card of a demo bundle, its `README.md`.

Rule: decides what a card says from numbers handed to it; must not train or measure anything.
"""

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmark.demo.training import TrainingResult


@dataclass(frozen=True)
class Card:
    """Content of a card: which model of the pair, number of weights, seed, training results."""

    role: Literal["target", "draft"]
    weights: int
    seed: int
    outcome: TrainingResult


ROLES = {
    "target": "Trained from nothing on the text below; the loss is cross-entropy.",
    "draft": "Begun from the target's embedding, trained on the text below, then distilled from "
    "the target on\nthat text and on the target's own answers, greedy and sampled; the loss is "
    "the KL divergence.",
}


def write_card(card: Card, folder: Path) -> None:
    """Write `README.md` into `folder`."""
    text = CARD.format(
        role=card.role,
        how=ROLES[card.role],
        weights=card.weights / 1e6,
        seed=card.seed,
        python=platform.python_version(),
        minutes=card.outcome.seconds / 60,
        steps=card.outcome.steps,
        tokens=card.outcome.tokens / 1e6,
        loss=card.outcome.loss,
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


CARD = """---
license: apache-2.0
pipeline_tag: text-generation
---

# tgi-laps demo {role}

A Llama of {weights:.2f} million weights, stored in bfloat16, with a byte-level BPE tokenizer of
4096 tokens that the demo target and the demo draft share. It knows nothing but the Python
standard library: it shows and measures a text generation server, and answers nothing else.

{how}

| | |
|---|---|
| data | the standard library of CPython {python}, and questions and answers drawn from it |
| seed | {seed} |
| minutes of wall time | {minutes:.1f} |
| steps | {steps} |
| tokens read, millions | {tokens:.1f} |
| loss at the end, nats per token | {loss:.3f} |

Chat layout: `<|user|>question<|assistant|>`, after an optional `<|system|>text`.
Measurements and how to train it again: `docs/demo-models.md`.

The weights are under the Apache License 2.0. The text they were trained on is part of CPython,
under the Python Software Foundation License.
"""
