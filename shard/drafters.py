"""The table of drafters, and the choice of one for a server.

A new drafter is a subclass of `shard.rounds.drafter.Drafter` in a file of its own and one line in
`DRAFTERS`. Nothing else in the shard asks which drafter there is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shard.config import ShardConfig
from shard.errors import StartupError
from shard.loading.draft_vocabulary import shared_vocabulary
from shard.model.packed_model import LoadedModel, PackedModel
from shard.model.product_times import ONE_RANK, Measurements
from shard.rounds.drafter import Drafter
from shard.rounds.mixed_drafter import MixedDrafter
from shard.rounds.model_drafter import ModelDrafter
from shard.rounds.ngram import NgramDrafter
from shard.rounds.suffix import SuffixDrafter
from shard.rounds.vocabulary_map import VocabularyMap

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DrafterInputs:
    """What a drafter may be built from."""

    config: ShardConfig
    target: LoadedModel
    draft: LoadedModel | None
    """The draft model, if one is configured."""
    pages: int
    """Pages of the pool; every cache of a drafter must have as many."""
    measurements: Measurements = ONE_RANK
    """Makes a measured time equal on all ranks."""


def _model_drafter(inputs: DrafterInputs) -> Drafter:
    """Raises StartupError 4 for a draft model whose vocabulary cannot be mapped."""
    config, target, draft = inputs.config, inputs.target, inputs.draft
    if draft is None or config.draft_path is None:
        raise StartupError(2, "the drafter `model` needs a draft model")
    shared = shared_vocabulary(Path(config.model_path), Path(config.draft_path))
    if shared.warning and config.rank == 0:
        _log.warning("%s", shared.warning)
    sizes = target.vocab_size, draft.vocab_size
    vocabulary_map = VocabularyMap(*sizes, shared.draft_ids, target.device)
    packed = PackedModel(
        draft,
        inputs.pages,
        config.max_rows,
        config.speculate + 1,
        measurements=inputs.measurements,
    )
    return ModelDrafter(packed, target.eos, vocabulary_map)


def _best_of_both(inputs: DrafterInputs) -> Drafter:
    """The draft model with suffix decoding next to it; suffix decoding alone without one."""
    return SuffixDrafter() if inputs.draft is None else MixedDrafter(_model_drafter(inputs))


DRAFTERS: dict[str, Callable[[DrafterInputs], Drafter]] = {
    ModelDrafter.name: _model_drafter,
    NgramDrafter.name: lambda inputs: NgramDrafter(),
    SuffixDrafter.name: lambda inputs: SuffixDrafter(),
    MixedDrafter.name: _best_of_both,
}
"""How each drafter is built, by name."""


def make_drafter(inputs: DrafterInputs) -> Drafter | None:
    """The configured drafter; None if nothing is to be drafted.

    By default the draft model if there is one, otherwise prompt lookup. Raises StartupError.
    """
    if not inputs.config.speculate:
        return None
    default = NgramDrafter.name if inputs.draft is None else ModelDrafter.name
    name = inputs.config.drafter or default
    if name not in DRAFTERS:
        raise StartupError(2, f"there is no drafter `{name}`; there are {', '.join(DRAFTERS)}")
    return DRAFTERS[name](inputs)
