"""Measure the demo pair and write `docs/demo-models.md`.

Rule: decides what the report says and how acceptance is counted; must not know how the pair
was trained. Greedy acceptance needs no server: the target's output is fixed, so one pass of
the draft over it tells every guess, and the rounds follow by counting.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev, quantiles

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from benchmark.demo.models import load_model, weight_count
from benchmark.demo.outputs import Output, outputs
from benchmark.demo.prompts import FAMILIES, prompts

DRAFT_LENGTH = 5
MAX_NEW_TOKENS = 512
SAMPLE_CHARACTERS = 420


@dataclass(frozen=True)
class MeasuredOutput:
    """One output of the target, and the fraction of the draft's tokens that were accepted."""

    output: Output
    accepted: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `demo-report`."""
    parser.add_argument("--pair", type=Path, default=Path("shard/demo"), help="bundle folder")
    parser.add_argument("--out", type=Path, default=Path("docs/demo-models.md"))
    parser.add_argument(
        "--prompts", type=int, default=72, help="maximum held-out prompts per family"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)


def run(args: argparse.Namespace) -> int:
    """Measure and write the report. Return the exit status."""
    torch.set_num_threads(args.threads)
    target, draft = load_model(args.pair / "target"), load_model(args.pair / "draft")
    tokenizer = Tokenizer.from_file(str(args.pair / "target" / "tokenizer.json"))
    measured: dict[str, list[MeasuredOutput]] = {}
    for family in FAMILIES:
        selected = [*dict.fromkeys(prompts(family, args.prompts, args.seed, held_out=True))]
        written = outputs(target, tokenizer, selected, MAX_NEW_TOKENS)
        measured[family] = [
            MeasuredOutput(o, accepted_fraction(matches(draft, o))) for o in written
        ]
        print(family_row(family, measured[family]), flush=True)
    text = report(measured, tokenizer, weight_count(target), weight_count(draft))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(text, encoding="utf-8")
    return 0


@torch.inference_mode()
def matches(draft: LlamaForCausalLM, output: Output) -> list[bool]:
    """Whether the draft's most likely token is the target's, for each output token but the first.

    The first token comes from reading the prompt, so no draft is made for it.
    """
    ids = torch.tensor([output.prompt_ids + output.ids])
    guessed = draft(input_ids=ids, use_cache=False).logits[0].argmax(-1)
    first = len(output.prompt_ids)
    return [bool(same) for same in guessed[first:-1] == ids[0, first + 1 :]]


def accepted_fraction(match: Sequence[bool], drafted: int = DRAFT_LENGTH) -> float:
    """Accepted over drafted tokens in rounds of `drafted` tokens, in [0, 1]; 0 without a round.

    A round accepts the leading matches and then one token of the target's own.
    """
    at = accepted = rounds = 0
    while at < len(match):
        window = match[at : at + drafted]
        run = window.index(False) if False in window else len(window)
        accepted += run
        rounds += 1
        at += run + 1
    return accepted / (drafted * rounds) if rounds else 0.0


def family_row(family: str, measured_outputs: list[MeasuredOutput]) -> str:
    """One line of the table: counts, lengths in tokens, accepted fractions, share ended."""
    lengths = [len(m.output.ids) for m in measured_outputs]
    accepted = [m.accepted for m in measured_outputs]
    tenths = quantiles(lengths, n=10, method="inclusive")
    ended = fmean(m.output.ended for m in measured_outputs)
    return (
        f"| {family} | {len(measured_outputs)} | {fmean(lengths):.0f} | {pstdev(lengths):.0f} "
        f"| {tenths[0]:.0f} / {tenths[4]:.0f} / {tenths[8]:.0f} "
        f"| {fmean(accepted):.2f} | {pstdev(accepted):.2f} "
        f"| {min(accepted):.2f} | {max(accepted):.2f} | {ended:.0%} |"
    )


def report(
    measured: dict[str, list[MeasuredOutput]], tokenizer: Tokenizer, target: int, draft: int
) -> str:
    """The whole page in Markdown; `target` and `draft` are numbers of weights."""
    rows = [family_row(family, measured_outputs) for family, measured_outputs in measured.items()]
    rows.append(
        family_row("all", [m for measured_outputs in measured.values() for m in measured_outputs])
    )
    samples = [sample(measured_outputs, tokenizer) for measured_outputs in measured.values()]
    table = "\n".join(rows)
    return PAGE.format(
        target=target / 1e6,
        draft=draft / 1e6,
        drafted=DRAFT_LENGTH,
        limit=MAX_NEW_TOKENS,
        table=table,
        samples="\n".join(samples),
    )


def sample(measured_outputs: list[MeasuredOutput], tokenizer: Tokenizer) -> str:
    """The output of median length that a family's list holds, cut to `SAMPLE_CHARACTERS`
    characters.
    """
    ordered = sorted(measured_outputs, key=lambda m: len(m.output.ids))
    middle = ordered[len(ordered) // 2]
    text = tokenizer.decode(middle.output.ids)
    shown = text if len(text) <= SAMPLE_CHARACTERS else text[:SAMPLE_CHARACTERS] + " ..."
    return (
        f"{middle.output.prompt.family}, {len(middle.output.ids)} tokens, "
        f"accepted {middle.accepted:.2f}:\n\n"
        f"~~~text\n{middle.output.prompt.text}\n\n{shown}\n~~~\n"
    )


PAGE = """# The demo models

`shard/demo` holds a pair of Llama models small enough to ship and to run on a laptop: a target
of {target:.1f} million weights and a draft of {draft:.2f} million, with one tokenizer. They know
nothing but the Python standard library, and exist to demonstrate and measure the server.

## Measured

Held-out prompts, greedy, at most {limit} new tokens, float32 from the stored weights. The
wording of a held-out prompt is not in the training text; the function that it asks about is, in
other words. (A bare function head that is held out as a prompt does occur in the plain code.)
Lengths are in tokens. Accepted is the fraction of drafted tokens that the target
accepts with {drafted} drafted tokens a round, counted by `accepted_fraction` in
`benchmark/demo/report.py`.

| family | prompts | length | std | p10 / p50 / p90 | accepted | std | min | max | ended |
|---|---|---|---|---|---|---|---|---|---|
{table}

## Samples

The output of median length of each family.

{samples}
## Training them again

~~~sh
python -m benchmark train-demo
python -m benchmark demo-report
~~~

The training text is the standard library of the Python that runs the command, and training
stops by the clock, so another machine gives different weights of the same kind. The default
durations are estimates for two idle cores; a longer training of the draft raises the accepted
fraction.

The bundled weights were trained on two busy cores, in stages. The target read 2.3 million tokens
from 72 modules in 12 minutes, and from there (`--resume-target`) 2.9 million from the 27 modules
of `benchmark/demo/stdlib_source.py` in 22 minutes. The draft read 1.0 million tokens of
the corpus in 4 minutes, then 0.3 million by distillation in one; four
minutes of distillation gave an accepted fraction of 0.86, too close to 1 for a demonstration.

Held-out prompts come from `benchmark.demo.prompts.prompts(family, count, seed, held_out=True)`.
"""
