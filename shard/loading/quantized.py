"""Quantized checkpoints: the supported formats and what they need. They cannot be sharded.

transformers loads all of them; a format is listed here once a test serves it and compares its
tokens. `mxfp4` and `fp8` are dequantized to the precision of the run, so they save disk space but
no memory; `torchao` weights stay packed and use its own kernels.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from transformers.utils.quantization_config import FineGrainedFP8Config, Mxfp4Config

from shard.errors import StartupError
from shard.loading.partition import TensorParallelRank

_REQUIRED_PACKAGES = {"mxfp4": None, "fp8": "accelerate", "torchao": "torchao"}
"""The package that a format needs besides transformers; the extra `quantized` has them all."""


def quantization_options(
    config: Any, name: str, ranks: TensorParallelRank
) -> dict[str, Any] | None:
    """The arguments with which transformers loads the format; None if it is not quantized.

    Raises StartupError: 2 for more than one rank, 4 for another format or a missing package.
    """
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        return None
    method = str(settings.get("quant_method"))
    if method not in _REQUIRED_PACKAGES:
        formats = ", ".join(sorted(_REQUIRED_PACKAGES))
        raise StartupError(
            4, f"{name}: the format `{method}` is not supported; supported: {formats}"
        )
    package = _REQUIRED_PACKAGES[method]
    if package is not None and find_spec(package) is None:
        command = "pip install 'tgi-laps[quantized]'"
        raise StartupError(
            4, f"{name}: the format `{method}` needs the package {package}; {command}"
        )
    if ranks.world > 1:
        raise StartupError(
            2, f"{name}: `{method}` weights cannot be sharded; serve it with --num-shard 1"
        )
    if method == "mxfp4":
        return {"quantization_config": Mxfp4Config(dequantize=True)}
    if method == "fp8":
        return {"quantization_config": FineGrainedFP8Config(dequantize=True)}
    return {}
