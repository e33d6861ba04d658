"""How a linear layer multiplies the tokens of a Step: the layout of its weights and the kernel.

One token is bound by memory and thirty-two by arithmetic, and no kernel is the fastest for both,
nor the same one on every processor: for eight tokens the plain product with transposed weights can
take three times as long as oneDNN's with packed ones, and MKL multiplies one token on one thread. A
plan, which `product_times` makes, names a layout and a kernel for each number of tokens. A weight
is kept in one layout only.

Sums in float32 depend on the kernel in their last bits, as they always did on the number of tokens.
A processor without units for half precision multiplies one token fast, because it reads half as
many bytes, and many tokens slowly: `widened` then converts a block of the weights at a time to
float32. Knows no model and measures nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor
from torch.nn import functional

Multiply = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""From x [T, in], a weight in the kernel's layout and a bias to x W^T + b [T, out]."""

TIMED_TOKENS = (1, 2, 4, 8, 32)
"""Numbers of tokens that are timed; others use the kernel of a near one."""
_BLOCK_ROWS = 96
"""Rows of a block of weights that one thread multiplies by a few tokens."""
_WIDENED_ELEMENTS = 1 << 20
"""Elements of a block of weights in float32, which stays in the cache until it is multiplied."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One way to multiply, and the layout that it needs."""

    layout: str
    multiply: Multiply


def _columns(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.mm(x, weight) if bias is None else torch.addmm(bias, x, weight)


def _transposed(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(W x^T)^T: the weights are the left operand, which suits few tokens."""
    return _rows(torch.mm(weight, x.t()), bias)


def _blocks(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(W x^T)^T by blocks of rows, which all threads share, also those of a single token."""
    count, rest = divmod(weight.shape[0], _BLOCK_ROWS)
    whole, columns = weight[:-rest] if rest else weight, x.t()
    blocks = whole.view(count, _BLOCK_ROWS, x.shape[1])
    out = torch.bmm(blocks, columns.expand(count, -1, -1)).view(-1, x.shape[0])
    if rest:
        out = torch.cat((out, torch.mm(weight[-rest:], columns)))
    return _rows(out, bias)


def _rows(columns: Tensor, bias: Tensor | None) -> Tensor:
    """`columns` [out, T] transposed, with the strides by which kernels know a single row."""
    one = columns.shape[1] == 1
    out = columns.view(1, -1) if one else columns.t().contiguous()
    return out if bias is None else out.add_(bias)


def _inner_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """oneDNN's inner product, with packed weights or plain ones."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


def _widened(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The product in float32, rounded once at the end."""
    rows, wide = max(1, _WIDENED_ELEMENTS // weight.shape[1]), x.float()
    parts = [functional.linear(wide, part.float()) for part in weight.split(rows)]
    out = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
    return (out if bias is None else out.add_(bias)).to(x.dtype)


def _pack(weight: Tensor) -> Tensor:
    """`weight` in oneDNN's own layout, which cannot be read."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 8)
    return packed


COLUMNS, ROWS, PACKED = "columns", "rows", "packed"
LAYOUTS: Mapping[str, Callable[[Tensor], Tensor]] = {
    COLUMNS: lambda weight: weight.t().contiguous(),
    ROWS: lambda weight: weight.contiguous(),
    PACKED: _pack,
}
"""From a weight [out, in] to its form in each layout; the plainest first."""
KERNELS: Mapping[str, Kernel] = {
    "columns": Kernel(COLUMNS, _columns),
    "linear": Kernel(ROWS, functional.linear),
    "transposed": Kernel(ROWS, _transposed),
    "blocks": Kernel(ROWS, _blocks),
    "unpacked": Kernel(ROWS, _inner_product),
    "packed": Kernel(PACKED, _inner_product),
    "widened": Kernel(ROWS, _widened),
}


def usable_layouts(dtype: torch.dtype) -> tuple[str, ...]:
    """The layouts that have kernels for weights of `dtype`, the plainest first.

    Transposed weights in half precision take up to ten times as long as others.
    """
    plain = (COLUMNS, ROWS) if dtype == torch.float32 else (ROWS,)
    return (*plain, PACKED) if onednn_multiplies(dtype) else plain


def onednn_multiplies(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies weights of `dtype`: not without the processor's units for it."""
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if dtype == torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return dtype == torch.float32 and torch.backends.mkldnn.is_available()


def kernel_names(layout: str, dtype: torch.dtype) -> list[str]:
    """The kernels for weights of `dtype` in `layout`; those in float32 need no widening."""
    unusable = {_widened} if dtype == torch.float32 else set()
    if not onednn_multiplies(dtype):
        unusable.add(_inner_product)
    return [
        name
        for name, kernel in KERNELS.items()
        if kernel.layout == layout and kernel.multiply not in unusable
    ]


@dataclass(frozen=True, slots=True)
class ProductPlan:
    """A layout, and the names of its kernels for each of `TIMED_TOKENS`."""

    layout: str
    kernels: tuple[str, ...]

    def kernel(self, tokens: int) -> str:
        """The name of the kernel for `tokens` tokens: that of the nearest number, by ratio."""
        near = min(range(len(TIMED_TOKENS)), key=lambda at: abs(log(tokens / TIMED_TOKENS[at])))
        return self.kernels[near]


PLAIN = ProductPlan(COLUMNS, ("columns",) * len(TIMED_TOKENS))
"""One product with transposed weights."""


class Linear:
    """x W^T + b for x [T, in], multiplied as `plan` says."""

    def __init__(self, weight: Tensor, bias: Tensor | None, plan: ProductPlan = PLAIN) -> None:
        """`weight` [out, in]; in the layout `rows` a contiguous one is not copied."""
        self._out = weight.shape[0]
        self.weight, self._bias = LAYOUTS[plan.layout](weight.detach()), bias
        """The weight in the layout of `plan`."""
        names = [plan.kernel(tokens) for tokens in range(1, TIMED_TOKENS[-1] + 1)]
        self._kernels = [self._nothing, *(KERNELS[name].multiply for name in names)]

    def __call__(self, x: Tensor) -> Tensor:
        kernel = self._kernels[min(x.shape[0], len(self._kernels) - 1)]
        return kernel(x, self.weight, self._bias)

    def _nothing(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The product of no tokens, which not every kernel accepts."""
        return x.new_empty(0, self._out)
