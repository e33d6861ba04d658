"""Train the demo pair: one tokenizer, a target, and a draft distilled from the target.

Rule: decides the order of the parts and their options; what is read, how a model is trained
and what is distilled is decided elsewhere. The target can be kept and only the draft trained.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from benchmark.demo import corpus as demo_corpus
from benchmark.demo import distil
from benchmark.demo.card import Card, write_card
from benchmark.demo.corpus import Document, document_stream, documents, encode_texts, pack_batches
from benchmark.demo.losses import Loss, compiled, distillation_loss, next_token_loss
from benchmark.demo.models import draft_config, load_model, save_bundle, target_config, weight_count
from benchmark.demo.tokenizer import train_tokenizer
from benchmark.demo.training import TrainingPlan, TrainingResult, train

LENGTH = 512
ROWS = 4
CORPUS_PART = 0.6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `train-demo`."""
    parser.add_argument("--out", type=Path, default=Path("shard/demo"), help="bundle folder")
    parser.add_argument("--minutes-target", type=float, default=15.0)
    parser.add_argument("--minutes-draft", type=float, default=2.0)
    parser.add_argument("--answers", type=int, default=16, help="prompts per family to distil on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep-target", action="store_true", help="train the draft only")
    parser.add_argument("--resume-target", type=Path, help="a target's folder to start from")


def run(args: argparse.Namespace) -> int:
    """Train and save the models that `args` selects. Return the exit status."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    if not args.keep_target:
        outcome = train_target(
            args.out / "target", args.minutes_target, args.seed, args.resume_target
        )
        print(f"target: {outcome}", flush=True)
    outcome = train_draft(args.out, args.minutes_draft, args.seed, args.answers)
    print(f"draft: {outcome}", flush=True)
    return 0


def train_target(folder: Path, minutes: float, seed: int, resume: Path | None) -> TrainingResult:
    """Train the tokenizer and the target on the corpus; save both, also every few minutes.

    With `resume` the tokenizer and the weights of that bundle are where training starts.
    """
    corpus = documents()
    if resume:
        tokenizer, model = Tokenizer.from_file(str(resume / "tokenizer.json")), load_model(resume)
    else:
        tokenizer = train_tokenizer([document.text for document in corpus])
        model = LlamaForCausalLM(target_config())
    print(f"target: {weight_count(model)} weights, {len(corpus)} documents", flush=True)
    families = by_family(corpus, tokenizer)
    outcome = train(
        model,
        compiled(next_token_loss, model),
        pack_batches(document_stream(families, demo_corpus.SHARES, seed), LENGTH, ROWS),
        TrainingPlan(minutes, peak=2e-3),
        checkpoint=partial(save_bundle, model, tokenizer, folder),
    )
    save_bundle(model, tokenizer, folder)
    write_card(Card("target", weight_count(model), seed, outcome), folder)
    return outcome


def train_draft(out: Path, minutes: float, seed: int, answers: int) -> TrainingResult:
    """Train the draft for the saved target: on the corpus first, then by distillation.

    The corpus part reads several times as many tokens a minute, since no target runs in it.
    """
    target, draft = load_model(out / "target"), LlamaForCausalLM(draft_config())
    tokenizer = Tokenizer.from_file(str(out / "target" / "tokenizer.json"))
    distil.share_embedding(target, draft)
    print(f"draft: {weight_count(draft)} weights", flush=True)
    families = by_family(documents(), tokenizer)

    def part(loss: Loss, share: float, peak: float) -> TrainingResult:
        rows = pack_batches(document_stream(families, distil.SHARES, seed), LENGTH, ROWS)
        return train(draft, loss, rows, TrainingPlan(share * minutes, peak))

    read = part(compiled(next_token_loss, draft), CORPUS_PART, 4e-3)
    for family, texts in distil.target_outputs(target, tokenizer, answers).items():
        families[family] += texts
    distilled = part(compiled(distillation_loss, draft, target), 1 - CORPUS_PART, 2e-3)
    outcome = read.followed_by(distilled)
    save_bundle(draft, tokenizer, out / "draft")
    write_card(Card("draft", weight_count(draft), seed, outcome), out / "draft")
    return outcome


def by_family(corpus: list[Document], tokenizer: Tokenizer) -> dict[str, list[list[int]]]:
    """The token ids of the corpus, each text with the end token appended."""
    return {
        family: encode_texts(tokenizer, [d.text for d in corpus if d.family == family])
        for family in demo_corpus.SHARES
    }
