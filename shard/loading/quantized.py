"""Quantised checkpoints: which formats are read, by what, and that they are read on one rank.

transformers unpacks them all; a format is listed here once it was loaded, served and compared.
`mxfp4` and `fp8` are turned back into the precision of the run, so they save disk and not memory;
`torchao` weights stay packed and are multiplied by its own kernels.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from transformers.utils.quantization_config import FineGrainedFP8Config, Mxfp4Config

from shard.errors import StartupError
from shard.loading.partition import TensorParallelRank

_REQUIRED_PACKAGES = {"mxfp4": None, "fp8": "accelerate", "torchao": "torchao"}
"""What a format needs beside transformers; all of it is in the extra `quantized`."""


def quantization_options(
    config: Any, name: str, ranks: TensorParallelRank
) -> dict[str, Any] | None:
    """What transformers must be told to load the format of `config`; None for a plain checkpoint.

    Raises Fault 4 for another format or a missing package, Fault 2 for more than one rank.
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
        cure = "pip install 'tgi-laps[quantized]'"
        raise StartupError(4, f"{name}: the format `{method}` needs the package {package}; {cure}")
    if ranks.world > 1:
        raise StartupError(
            2, f"{name}: `{method}` weights are not sharded; serve it with --num-shard 1"
        )
    if method == "mxfp4":
        return {"quantization_config": Mxfp4Config(dequantize=True)}
    if method == "fp8":
        return {"quantization_config": FineGrainedFP8Config(dequantize=True)}
    return {}
