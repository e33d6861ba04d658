"""Resources of a rank: how many pages fit in addition to the weights, how many cores it may use."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from shard.attention.interface import AttentionProbe
from shard.attention.kv_cache import PAGE_SIZE
from shard.config import ShardConfig
from shard.errors import StartupError
from shard.model.forward import transformers_forward
from shard.model.packed_model import LoadedModel

_HOST_MEMORY_FRACTION = 0.25
"""Share of the host's free memory that the pools of all ranks may take on CPU."""
_KV_POOL_FRACTION = 0.85
"""Share of the memory left by weights and a prefill that a GPU's pools take.

Graphs need the rest.
"""


def pool_pages(config: ShardConfig, target: LoadedModel, draft: LoadedModel | None) -> int:
    """Pages of the pool: the configured tokens, or what fits, but never more than can be used.

    Raises StartupError 6 if not even one full row fits.
    """
    longest = min(target.max_length, config.max_total_tokens or target.max_length)
    useful = config.max_rows * -(-longest // PAGE_SIZE)
    if config.max_batch_total_tokens is not None:
        count = config.max_batch_total_tokens // PAGE_SIZE
    else:
        page = target.page_bytes + (draft.page_bytes if draft else 0)
        count = min(useful, _free_bytes(config, target) // page)
    require_one_row(config, target.max_length, count * PAGE_SIZE)
    return count


def require_one_row(config: ShardConfig, max_length: int, tokens: int) -> None:
    """Raises StartupError 6 if a KV cache of `tokens` does not hold one full row."""
    longest, count = min(max_length, config.max_total_tokens or max_length), tokens // PAGE_SIZE
    wanted = min(longest, config.max_total_tokens or PAGE_SIZE)
    if count < -(-wanted // PAGE_SIZE):
        raise StartupError(
            6,
            f"Not enough memory to handle max_total_tokens={wanted}: the KV cache holds"
            f" {count * PAGE_SIZE} tokens; lower --max-total-tokens or raise"
            " --max-batch-total-tokens",
        )


def _free_bytes(config: ShardConfig, target: LoadedModel) -> int:
    if target.device.type == "cuda":
        text = f"handle {config.prefill_tokens} prefill tokens. You need to decrease"
        with oom_as_startup_error(f"{text} `--max-batch-prefill-tokens`"):
            warm_up(target, config.prefill_tokens, config.max_rows)
        free, total = torch.cuda.mem_get_info(target.device)
        return int(usable_bytes(free, total, config.cuda_memory_fraction) * _KV_POOL_FRACTION)
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(free * _HOST_MEMORY_FRACTION / config.world)


@dataclass(frozen=True, slots=True)
class ForwardWorkspace:
    """Upper bound of the bytes that a forward needs in addition to weights and cache."""

    per_token: int
    per_logit: int
    per_pair: int
    """Per pair of a token and one that it attends to, for the attention mask."""

    @classmethod
    def from_model(cls, loaded: LoadedModel) -> ForwardWorkspace:
        """From the sizes of the model's parameters on this rank, before its layers are fused.

        The number of values that a layer's matrices produce per token is estimated by their
        elements divided by the hidden size. To hold all outputs of a layer at once, and its norms
        in float32, is more than any forward does. Logits are held as a rank's part, as a whole,
        and in float32. A mask has a row for every head of a group.
        """
        text: Any = loaded.module.config.get_text_config()  # type: ignore[union-attr, operator]
        hidden, active = text.hidden_size, getattr(text, "num_experts_per_tok", None) or 1
        layers = Counter[str]()
        for name, parameter in loaded.module.named_parameters():
            layer = re.match(r".*?\.\d+\.", name)
            experts = parameter.shape[0] if parameter.ndim == 3 else 1
            if layer and parameter.ndim > 1:
                layers[layer[0]] += parameter.numel() * min(active, experts) // experts
        widths = max(layers.values(), default=0) // hidden
        size = loaded.dtype.itemsize
        heads = text.num_attention_heads
        kv_heads = getattr(text, "num_key_value_heads", None) or loaded.shapes[0].heads
        return cls(
            per_token=widths * size + 4 * hidden * 4,
            per_logit=loaded.vocab_size * (2 * size + 4),
            per_pair=heads // kv_heads * size,
        )

    def estimate_bytes(self, tokens: int, logits: int, pairs: int) -> int:
        """Bytes for `tokens` tokens that attend in `pairs` pairs, with `logits` rows of logits."""
        return tokens * self.per_token + logits * self.per_logit + pairs * self.per_pair


@contextmanager
def oom_as_startup_error(purpose: str) -> Iterator[None]:
    """Turn out-of-memory inside the block into StartupError 6, in TGI's words."""
    try:
        yield
    except torch.OutOfMemoryError as fault:
        raise StartupError(6, f"Not enough memory to {purpose}") from fault


def usable_bytes(free: int, total: int, fraction: float) -> int:
    """Free bytes within `fraction` of a device that has `free` of `total` bytes."""
    return max(0, free - int(total * (1 - fraction)))


def warm_up(loaded: LoadedModel, tokens: int, logits: int) -> None:
    """Run one forward of the largest Step, whose memory torch's allocator keeps.

    `AttentionProbe` attends to nothing; attention needs little memory compared to the layers.
    """
    ids = torch.zeros(1, tokens, dtype=torch.int64, device=loaded.device)
    positions = torch.arange(tokens, device=loaded.device)[None] % loaded.max_length
    wanted = positions[0, : min(logits, loaded.max_length)]
    with torch.inference_mode():
        transformers_forward(loaded.module)(ids, positions, AttentionProbe(), wanted)
