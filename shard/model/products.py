"""How a linear layer multiplies the tokens of a Step: the layout of its weights and the kernel.

One token is bound by memory and thirty-two by arithmetic, and no kernel is the fastest for both,
nor the same one on every processor: for eight tokens the plain product with transposed weights can
take three times as long as oneDNN's with packed ones. So the kernels are timed at load on samples
of the weights, for a few numbers of tokens, and a plan is made of the times. A weight is kept in
one layout only. Small weights stay in the processor's cache, where the plain product is the
fastest, and are not timed. One thread is timed: which kernel is the fastest hardly depends on their
number, and on a busy machine threads that wait for each other would hide it.

Sums in float32 depend on the kernel in their last bits, as they always did on the number of tokens.
Ranks must choose alike, since each of them drafts for itself: `across_ranks` makes their times
equal. Knows no model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from math import inf, log

import torch
from torch import Tensor
from torch.nn import functional

AcrossRanks = Callable[[float], float]
"""Turns each rank's seconds into one value, the same on every rank."""
Multiply = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""From x [T, in], a weight in the kernel's layout and a bias to x W^T + b [T, out]."""

TIMED_TOKENS = (1, 2, 4, 8, 32)
"""Numbers of tokens that are timed; others use the kernel of a near one."""
TIMED_BYTES = 1 << 21
"""Size from which a weight is timed: smaller ones stay in the cache."""
SAMPLE_BYTES, ALL_SAMPLES_BYTES = 8 << 20, 16 << 20
"""Maximum size of one sample of the weights, and size at which there are enough of them."""
MIN_GAIN = 0.05
"""Relative gain in time, on average, for which a later layout replaces an earlier one."""
_ROUNDS = 2
"""Times that each kernel runs; the fastest counts, since other load only makes it slower."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One way to multiply, and the layout that it needs."""

    layout: str
    multiply: Multiply


def _columns(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.mm(x, weight) if bias is None else torch.addmm(bias, x, weight)


def _transposed(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(W x^T)^T: the weights are the left operand, which suits few tokens."""
    out = torch.mm(weight, x.t()).t().contiguous()
    return out if bias is None else out.add_(bias)


def _packed(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """oneDNN's inner product."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


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
    "packed": Kernel(PACKED, _packed),
}


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
Times = Mapping[tuple[str, int], float]
"""Seconds by kernel and number of tokens."""


class Linear:
    """x W^T + b for x [T, in], multiplied as `plan` says."""

    def __init__(self, weight: Tensor, bias: Tensor | None, plan: ProductPlan = PLAIN) -> None:
        """`weight` [out, in]; in the layout `rows` a contiguous one is not copied."""
        self._out = weight.shape[0]
        self._weight, self._bias = LAYOUTS[plan.layout](weight.detach()), bias
        names = [plan.kernel(tokens) for tokens in range(1, TIMED_TOKENS[-1] + 1)]
        self._kernels = [self._nothing, *(KERNELS[name].multiply for name in names)]

    def __call__(self, x: Tensor) -> Tensor:
        kernel = self._kernels[min(x.shape[0], len(self._kernels) - 1)]
        return kernel(x, self._weight, self._bias)

    def _nothing(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The product of no tokens, which not every kernel accepts."""
        return x.new_empty(0, self._out)


def time_and_choose(
    weights: Iterable[Tensor], across_ranks: AcrossRanks, layouts: Sequence[str] = tuple(LAYOUTS)
) -> ProductPlan:
    """Choose among `layouts` for `weights` [out, in], which differ only in their values.

    Takes of `weights` as many as it needs, so that none is in the cache when its turn comes.
    """
    samples = _samples(weights)
    size = across_ranks(samples[0].nbytes)  # ranks must agree whether to time
    if len(layouts) > 1 and size < TIMED_BYTES:
        return PLAIN
    usable = [name for name in layouts if name != PACKED or torch.backends.mkldnn.is_available()]
    with _one_thread():
        times = {
            key: across_ranks(seconds)
            for layout in usable
            for key, seconds in _time_layout(layout, samples).items()
        }
    return choose_plan(times, usable)


def choose_plan(times: Times, layouts: Sequence[str]) -> ProductPlan:
    """The layout with the shortest times, by their geometric mean, and its fastest kernels.

    A layout replaces one before it only if it gains `MIN_GAIN`.
    """
    best, best_mean = PLAIN, inf
    for layout in layouts:
        names = [name for name, kernel in KERNELS.items() if kernel.layout == layout]
        fastest = [min(names, key=lambda name: times[name, n]) for n in TIMED_TOKENS]
        mean = sum(log(times[name, n]) for name, n in zip(fastest, TIMED_TOKENS, strict=True))
        if mean / len(TIMED_TOKENS) < best_mean + log(1 - MIN_GAIN):
            best, best_mean = ProductPlan(layout, tuple(fastest)), mean / len(TIMED_TOKENS)
    return best


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _samples(weights: Iterable[Tensor]) -> list[Tensor]:
    """Parts of `weights`, up to `ALL_SAMPLES_BYTES` in all."""
    samples: list[Tensor] = []
    for weight in weights:
        rows = max(1, SAMPLE_BYTES // (weight.shape[1] * weight.itemsize))
        for part in weight.detach().split(rows):
            if part.shape == (samples[0] if samples else part).shape:
                samples.append(part)
            if sum(sample.nbytes for sample in samples) >= ALL_SAMPLES_BYTES:
                return samples
    return samples


def _time_layout(layout: str, samples: Sequence[Tensor]) -> dict[tuple[str, int], float]:
    """Seconds of each kernel of `layout` for one sample."""
    weights = [LAYOUTS[layout](sample) for sample in samples]
    names = [name for name, kernel in KERNELS.items() if kernel.layout == layout]
    times = dict.fromkeys(product(names, TIMED_TOKENS), inf)
    for _, (name, tokens) in product(range(_ROUNDS), list(times)):
        x, multiply = samples[0].new_ones(tokens, samples[0].shape[1]), KERNELS[name].multiply
        start = time.perf_counter()
        for weight in weights:
            multiply(x, weight, None)
        seconds = (time.perf_counter() - start) / len(weights)
        times[name, tokens] = min(times[name, tokens], seconds)
    return times
