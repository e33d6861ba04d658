"""Compile the kernels for GPUs that are not here, and print what shared memory they take."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from shard.attention import paged_triton, triton_kernels

POINTERS = ("table", "starts", "counts", "lengths")
ITEMSIZE = {"*fp32": 4, "*bf16": 2}


def compile_kernel(
    kernel: Any, capability: int, types: dict[str, str], constants: dict[str, int]
) -> Any:
    """Compile `kernel` for compute `capability`.

    `types` are Triton's names of the arguments' types: an argument that is neither there nor in
    `constants` is a 32-bit integer, and the page tables are pointers to such integers.
    """
    kinds = {name: types.get(name, "i32") for name in kernel.arg_names}
    kinds |= dict.fromkeys(POINTERS & kinds.keys(), "*i32")
    kinds |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(fn=kernel, signature=kinds, constexprs=constants)
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options={"num_stages": 2})


def compiled_variants() -> Iterator[tuple[str, int]]:
    """Name and bytes of shared memory of every variant."""
    sums = dict.fromkeys(("partial", "peaks", "sums"), "*fp32")
    for capability, dim, dtype in ((80, 256, "*bf16"), (80, 128, "*fp32"), (90, 256, "*bf16")):
        padded, tile, block = paged_triton.tile_sizes(dim, 64, ITEMSIZE[dtype])
        compiled = compile_kernel(
            triton_kernels.attend_split,
            capability,
            {"query": dtype, "pool": dtype, "scale": "fp32", "softcap": "fp32", **sums},
            {
                "GROUP": 4,
                "DIM": dim,
                "PADDED": padded,
                "PAGE": 16,
                "WINDOW": 100,
                "SOFTCAP": True,
                "SPLITS": 4,
                "TILE": tile,
                "BLOCK": block,
                "CAST": False,
            },
        )
        assert compiled.asm["cubin"]
        yield f"{capability} {dim} {dtype}", compiled.metadata.shared
    merge = compile_kernel(
        triton_kernels.merge_splits,
        90,
        {"out": "*bf16", "sinks": "*bf16", **sums},
        {"DIM": 128, "PADDED": 128, "SINKS": True, "SPLITS": 4, "PARTS": 4},
    )
    assert merge.asm["cubin"]
    yield "merge", merge.metadata.shared


if __name__ == "__main__":
    json.dump(dict(compiled_variants()), sys.stdout)
