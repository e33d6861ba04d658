"""A round of drafts changes neither the tokens nor their distribution; models are tables here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from shard.batch.packing import TokenSpan
from shard.batch.rows import CachedRow
from shard.rounds.host_round import RowTask, run_round
from shard.rounds.model_drafter import ModelDrafter
from shard.rounds.vocabulary_map import VocabularyMap
from shard.sampling.sampler import Position, process
from shard.wire.protocol import ReportOptions, Sampling
from tests.support.nightly import nightly
from tests.support.statistics import chi_square

VOCABULARY = 12
TOKENS = 3
BATCH = 1_000


@dataclass
class Table:
    """A model whose logits follow from the last token alone."""

    rows: Tensor
    facts: SimpleNamespace
    cache: None = None
    """It remembers nothing."""

    def logits(self, feeds: Sequence[TokenSpan]) -> Tensor:
        wanted = [
            token for feed in feeds for token in feed.tokens[len(feed.tokens) - feed.logit_count :]
        ]
        return self.rows[wanted]


def table(seed: int) -> Table:
    rows = torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(seed))
    return Table(rows, SimpleNamespace(eos=frozenset(), max_length=100))


def drafting(model: Table) -> ModelDrafter:
    same = VocabularyMap(VOCABULARY, VOCABULARY, None, torch.device("cpu"))
    return ModelDrafter(model, frozenset(), same)  # type: ignore[arg-type]


def transitions(sampling: Sampling, draft: int, rows: int) -> tuple[Tensor, int, int]:
    """How often each token followed each, [V, V], and the drafts made and accepted."""
    target, drafter = table(1), drafting(table(2))
    counts = torch.zeros(VOCABULARY, VOCABULARY)
    drafted = accepted = 0
    for first in range(0, rows, BATCH):
        batch = [row(sampling, seed) for seed in range(first, first + BATCH)]
        while live := [row for row in batch if not row.done]:
            items = run_round(target, drafter, [RowTask(row, 0, draft) for row in live])  # type: ignore[arg-type]
            drafted += sum(item.drafted for item in items)
            accepted += sum(item.accepted for item in items)
        chains = torch.tensor([row.tokens for row in batch])
        counts += torch.bincount(
            (chains[:, :-1] * VOCABULARY + chains[:, 1:]).flatten(), minlength=VOCABULARY**2
        ).view(VOCABULARY, VOCABULARY)
    return counts, drafted, accepted


def row(sampling: Sampling, seed: int) -> CachedRow:
    own = Sampling(seed, sampling.temperature, sampling.top_k, sampling.top_p)
    return CachedRow(seed, [seed % VOCABULARY], 1, TOKENS, False, own, ReportOptions(), None)


@pytest.mark.parametrize(("draft", "rows"), [(2, 8_000), nightly(0, 20_000), nightly(2, 20_000)])
@pytest.mark.parametrize("sampling", [Sampling(0, 0.8, top_k=8, top_p=0.95)], ids=["warped"])
def test_tokens_follow_the_targets_distribution(sampling: Sampling, draft: int, rows: int) -> None:
    """Three draws a row, each compared with the distribution after the token before it."""
    counts, drafted, accepted = transitions(sampling, draft, rows)
    assert counts.sum() == rows * TOKENS
    assert (drafted > 0) == (draft > 0)
    assert not draft or 0.2 < accepted / drafted < 0.8
    spots = [Position(sampling, [token]) for token in range(VOCABULARY)]
    distribution = process(table(1).rows, spots).softmax(-1)
    assert chi_square(counts, distribution * counts.sum(1, keepdim=True)) > 0.01
