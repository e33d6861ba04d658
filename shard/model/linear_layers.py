"""The linear layers of a module as planned products, whatever architecture calls them.

`planned` gives one layer's product with its hooks, which are the collectives of a rank. Where a
model keeps transformers' forward, `replace_products` puts such products into its linear layers;
`original` puts the old ones back, should the model compute something else then. Knows
transformers' modules only as linear layers, an embedding and a head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from shard.model.product_times import Measurements, split_samples, time_and_choose
from shard.model.products import LAYOUTS, PLAIN, ROWS, Linear, ProductPlan

MAX_COPIED_HEAD_BYTES = 32 << 20
"""Size above which a head that is also the embedding is not copied into another layout."""


Product = Callable[[Tensor], Tensor]
"""From inputs [T, in] to outputs [T, out]."""


class _Hooked(nn.Module):
    """`product` with the hooks of `part` around it."""

    def __init__(self, part: nn.Module, product: Product) -> None:
        super().__init__()
        self._product = product
        self._forward_pre_hooks, self._forward_hooks = part._forward_pre_hooks, part._forward_hooks

    def forward(self, x: Tensor) -> Tensor:
        return self._product(x)


def planned(
    part: nn.Linear,
    plan: ProductPlan,
    extend: Callable[[Product], Product] = lambda product: product,
) -> Product:
    """The product of `part` for inputs [T, in], extended, with its hooks around it."""
    product = extend(Linear(part.weight, part.bias, plan))
    return _Hooked(part, product) if has_hooks(part) else product


def has_hooks(part: nn.Module) -> bool:
    """Whether something runs before or after the forward of `part`."""
    return bool(part._forward_hooks or part._forward_pre_hooks)


def choose_head_plan(head: nn.Linear, embedding: Any, measurements: Measurements) -> ProductPlan:
    """The plan of a head; a large one that is also the embedding is not copied."""
    shared = head.weight is embedding.weight and head.weight.nbytes > MAX_COPIED_HEAD_BYTES
    layouts = (ROWS,) if shared else tuple(LAYOUTS)
    return time_and_choose(split_samples(head.weight), measurements, layouts)


@dataclass(frozen=True, slots=True)
class ReplacedProducts:
    """Linear layers that multiply as planned, and their own weights."""

    originals: Mapping[nn.Linear, Any]

    def restore(self) -> None:
        """Let the layers multiply as before."""
        for part, weight in self.originals.items():
            part.weight = weight
            del part.forward


def replace_products(module: Any, measurements: Measurements) -> ReplacedProducts:
    """Let the linear layers of `module` multiply by kernels that are the fastest for its weights.

    Layers stay as they are if their weights are small, or are quantized.
    """
    head = module.get_output_embeddings()
    parts = [p for p in module.modules() if type(p) is nn.Linear and _is_plain(p) and p is not head]
    plans = dict.fromkeys(parts, _choose_plan(parts, measurements))
    if type(head) is nn.Linear and _is_plain(head):
        plans[head] = choose_head_plan(head, module.get_input_embeddings(), measurements)
    chosen = {part: plan for part, plan in plans.items() if plan is not PLAIN}
    originals = {part: part.weight for part in chosen}
    for part, plan in chosen.items():
        _replace(part, plan)
    return ReplacedProducts(originals)


def _choose_plan(parts: list[nn.Linear], measurements: Measurements) -> ProductPlan:
    return time_and_choose((part.weight for part in parts), measurements) if parts else PLAIN


def _is_plain(part: nn.Linear) -> bool:
    return type(part.weight) is nn.Parameter and part.weight.is_floating_point()


def _replace(part: Any, plan: ProductPlan) -> None:
    """Give `part` the planned product; what can be read of its weight stays readable."""
    product = Linear(part.weight, part.bias, plan)

    def forward(x: Tensor) -> Tensor:
        rows = product(x.reshape(-1, x.shape[-1]))
        return rows.view(*x.shape[:-1], rows.shape[-1])

    part.forward = forward
    if plan.layout != ROWS:  # the old layout is freed
        meta = torch.empty_like(part.weight, device="meta")
        part.weight = nn.Parameter(meta, requires_grad=False)
