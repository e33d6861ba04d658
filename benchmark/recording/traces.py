"""Record where a draft model agrees with its target, for the simulator to replay.

Rule: decides which models answer which prompts; must not know what the traces are for. The target
answers greedily. Then the draft reads prompt and answer once, and its choice at every position is
compared with the target's token. The engine's rounds see the same, since a draft token is verified
only after a prefix that was accepted. Deterministic.

By default: the bundled pair on its training prompts' families. With `--dataset`: prompts of one of
the paper's data sets (chat, code, reasoning) or of a JSON lines file; the default pair is then the
paper's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmark.demo.engine import DEMO
from benchmark.demo.models import load_model
from benchmark.demo.outputs import outputs
from benchmark.demo.prompts import FAMILIES, Prompt, prompts
from benchmark.recording import datasets
from benchmark.simulation import traces
from benchmark.simulation.traces import Trace
from shard.errors import StartupError
from shard.launch.hub_download import download_model

PAIR = "huggyllama/llama-7b", "JackFram/llama-68m"
"""The paper's target and draft."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `record-traces`."""
    parser.add_argument(
        "--json", type=Path, default=traces.RECORDED_TRACES, help="file for the traces"
    )
    parser.add_argument("--count", type=int, default=240, help="requests to record")
    parser.add_argument("--max-new", type=int, default=512, help="maximum tokens of an answer")
    parser.add_argument("--dataset", help="chat, code, reasoning, or a JSON lines file")
    parser.add_argument("--target", default=PAIR[0], help="with --dataset: name or folder")
    parser.add_argument("--draft", default=PAIR[1], help="with --dataset: name or folder")


def run(args: argparse.Namespace) -> int:
    """Record, print a summary and write. Return the exit status."""
    torch.set_num_threads(1)
    try:
        recorded = _record_selected(args)
    except (datasets.DatasetUnavailable, StartupError, ValueError) as error:
        print(f"cannot record: {error}", file=sys.stderr)
        return 1
    pair = "demo" if args.dataset is None else f"{args.target}, {args.draft}"
    about: dict[str, object] = {"pair": pair, "sampling": "greedy", "max_new": args.max_new}
    traces.save(args.json, recorded, about)
    for family in dict.fromkeys(trace.family for trace in recorded):
        print(_summary(family, [trace for trace in recorded if trace.family == family]))
    return 0


def record(selected: list[Prompt], max_new: int) -> list[Trace]:
    """Record one trace of the bundled pair per prompt, in the order of `selected`."""
    tokenizer = Tokenizer.from_file(str(DEMO / "target" / "tokenizer.json"))
    target, draft = load_model(DEMO / "target"), load_model(DEMO / "draft")
    recorded = {}
    with torch.inference_mode():
        for output in outputs(target, tokenizer, selected, max_new):
            bits = agreement(draft, output.prompt_ids, output.ids)
            trace = Trace(output.prompt.family, len(output.prompt_ids), max_new, bits)
            recorded[output.prompt.text] = trace
    return [recorded[prompt.text] for prompt in selected]


def agreement(draft: Any, prompt: list[int], answer: list[int]) -> bytes:
    """For each token of `answer`, 1 where the draft model would have chosen it, else 0."""
    logits = draft(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    return bytes(logits.argmax(-1).eq(torch.tensor(answer)).to(torch.uint8).tolist())


def _record_selected(args: argparse.Namespace) -> list[Trace]:
    if args.dataset is None:
        return record(_demo_prompts(args.count), args.max_new)
    selected = datasets.prompts(args.dataset, args.count)  # before the models are downloaded
    folders = [
        name if Path(name).is_dir() else download_model(name, None)
        for name in (args.target, args.draft)
    ]
    family = args.dataset if args.dataset in datasets.DATASETS else "file"
    with torch.inference_mode():
        return list(_record_answers(selected, folders, family, args.max_new))


def _record_answers(
    selected: list[str], folders: list[str], family: str, max_new: int
) -> Iterator[Trace]:
    """Record prompts one by one. Raises ValueError if the vocabularies differ."""
    tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in folders]
    if tokenizers[0].get_vocab() != tokenizers[1].get_vocab():
        raise ValueError("target and draft have different vocabularies")
    models: list[Any] = [AutoModelForCausalLM.from_pretrained(folder) for folder in folders]
    target, draft = models
    for text in selected:
        known = tokenizers[0](text, return_tensors="pt")
        written = target.generate(**known, max_new_tokens=max_new, do_sample=False)[0].tolist()
        length = known["input_ids"].shape[1]
        bits = agreement(draft, written[:length], written[length:])
        yield Trace(family, length, max_new, bits)


def _demo_prompts(count: int) -> list[Prompt]:
    """Prompts of the families in turn, held-out ones first, without duplicates."""
    each, columns = -(-count // len(FAMILIES)), []
    for family in FAMILIES:
        drawn = [p for held_out in (True, False) for p in prompts(family, each, 0, held_out)]
        columns.append(list(dict.fromkeys(drawn))[:each])
    return [prompt for turn in zip(*columns, strict=True) for prompt in turn][:count]


def _summary(family: str, some: list[Trace]) -> str:
    lengths, right = (sum(getattr(t, name) for t in some) for name in ("length", "accepted"))
    count = len(some)
    return (
        f"{family:9} {count:4} requests, {lengths / count:6.1f} tokens,"
        f" {right / count:.2f} of draft tokens correct"
    )
