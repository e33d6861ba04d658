"""Record where the demo pair's draft agrees with its target, for the simulator to replay.

Rule: decides which prompts are answered; must not know what the traces are for. The target answers
greedily; then the draft reads prompt and answer once, and its choice at every position is compared
with what the target wrote there. That is what the engine's rounds see, since a draft is judged only
where everything before it was right. Deterministic; the answers of the three families mix in turn.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from benchmark.demo_engine import DEMO
from benchmark.demo_outputs import Output, outputs
from benchmark.demo_prompts import FAMILIES, Prompt, prompts
from benchmark.simulation import traces
from benchmark.simulation.traces import Trace

MAX_NEW = 512


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How many, and where to."""
    parser.add_argument("--json", type=Path, default=traces.RECORDED, help="file for the traces")
    parser.add_argument("--count", type=int, default=240, help="requests to record")


def run(args: argparse.Namespace) -> int:
    """Record, print a summary and write; the exit status."""
    torch.set_num_threads(1)
    found = record(_prompts(args.count), MAX_NEW)
    about: dict[str, object] = {"pair": "demo", "sampling": "greedy", "max_new": MAX_NEW}
    traces.save(args.json, found, about)
    for family in FAMILIES:
        some = [trace for trace in found if trace.family == family]
        lengths, accepted = ([getattr(t, n) for t in some] for n in ("length", "accepted"))
        count = max(1, len(some))
        print(
            f"{family:5} {len(some):4} requests, {sum(lengths) / count:6.1f} tokens,"
            f" {sum(accepted) / count:.2f} of them drafted right"
        )
    return 0


def _prompts(count: int) -> list[Prompt]:
    """The families in turn, each with its held-out prompts first, none twice."""
    each, columns = -(-count // len(FAMILIES)), []
    for family in FAMILIES:
        drawn = [p for held_out in (True, False) for p in prompts(family, each, 0, held_out)]
        columns.append(list(dict.fromkeys(drawn))[:each])
    return [prompt for turn in zip(*columns, strict=True) for prompt in turn][:count]


def record(asked: list[Prompt], max_new: int) -> list[Trace]:
    """One trace per prompt, in the order of `asked`."""
    tokenizer = Tokenizer.from_file(str(DEMO / "target" / "tokenizer.json"))
    target, draft = (
        LlamaForCausalLM.from_pretrained(DEMO / name, dtype=torch.float32).eval()  # type: ignore[no-untyped-call]
        for name in ("target", "draft")
    )
    with torch.inference_mode():
        given = list(outputs(target, tokenizer, asked, max_new))
        found = {output.prompt.text: trace for output, trace in _traces(draft, given, max_new)}
    return [found[prompt.text] for prompt in asked]


def _traces(
    draft: LlamaForCausalLM, given: list[Output], max_new: int
) -> Iterator[tuple[Output, Trace]]:
    for output in given:
        known = torch.tensor([output.prompt_ids + output.ids])
        choices = draft(known).logits[0, len(output.prompt_ids) - 1 : -1].argmax(-1)
        agrees = choices.eq(torch.tensor(output.ids))
        bits = bytes(agrees.to(torch.uint8).tolist())
        yield output, Trace(output.prompt.family, len(output.prompt_ids), max_new, bits)
