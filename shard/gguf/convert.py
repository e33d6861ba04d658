"""Converts a GGUF file to a model folder: configuration, tokenizer, chat template, safetensors.

transformers reads the file and de-quantizes it. What it leaves out is corrected or refused, so that
a file is served as what it says or not at all.
"""

from __future__ import annotations

import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, modeling_gguf_pytorch_utils
from transformers.utils.logging import disable_progress_bar, set_verbosity_error
from transformers.utils.quantization_config import GgufConfig

from shard.errors import StartupError, first_line
from shard.gguf.corrections import LLAMA3_FREQUENCIES, corrected_fields, rope_scaling
from shard.gguf.header import GgufHeader
from shard.gguf.selection import check_gguf
from shard.gguf.text_files import write_text_files
from shard.loading.compatibility import refuse_unsupported

Report = Callable[[str, int | None], None]
"""Called with what is being done, and the percentage done if it is known."""
_FLOAT_TYPES = {0: torch.float32, 1: torch.float16, 30: torch.bfloat16}
"""Tensor types that are not quantized."""
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_PROGRESS_PERCENT = 10


def convert(file: Path, dtype: str | None, report: Report, folder: Path) -> None:
    """Write the model in `file` to `folder` with weights of `dtype`.

    `dtype` None is float32 without a GPU; with one, it is the file's own precision, or bfloat16 if
    the file is quantized. Raises StartupError: 4 if the file cannot be read or served, 7 if the
    disk is full.
    """
    header = check_gguf(file)
    precision = _DTYPES[dtype] if dtype else _default_dtype(header)
    _require_space(file, folder, header.elements * precision.itemsize)
    disable_progress_bar()
    set_verbosity_error()
    with _alone(file) as source:
        config = _read_config(file, source, header)
        report(f"{file.name}: reading the tokenizer", None)
        ends = write_text_files(file, source, header, folder)
        config.eos_token_id = ends[0] if len(ends) == 1 else ends or None
        model = _read_model(file, source, config, precision, report)
    report(f"{file.name}: writing the weights", None)
    _save(model, folder)


def _default_dtype(header: GgufHeader) -> torch.dtype:
    types = {tensor.type for tensor in header.tensors}
    if not torch.cuda.is_available():
        return torch.float32
    if types <= _FLOAT_TYPES.keys():
        return _FLOAT_TYPES[max(types)]
    return torch.bfloat16


def _require_space(file: Path, folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise StartupError(
            7,
            f"{file} takes {size / 1e9:.1f} GB de-quantized, {folder.parent} has"
            f" {free / 1e9:.1f} GB free; choose a smaller `--dtype`, or another folder with"
            " XDG_CACHE_HOME",
        )


@contextmanager
def _alone(file: Path) -> Iterator[Path]:
    """A folder with `file` and nothing else, so that no other file's values are mixed in."""
    with TemporaryDirectory() as path:
        (Path(path) / file.name).symlink_to(file.resolve())
        yield Path(path)


def _read_config(file: Path, source: Path, header: GgufHeader) -> Any:
    """The model's configuration. Raises StartupError(4), also for a model that is not served."""
    try:
        config = AutoConfig.from_pretrained(source, gguf_file=file.name)
    except Exception as error:  # any, from a header that transformers does not expect
        raise StartupError(4, f"{file} cannot be read: {first_line(error)}") from error
    refuse_unsupported(config)
    for field, value in corrected_fields(header, config.to_dict()).items():
        setattr(config, field, value)
    _set_rope(file, header, config)
    return config


def _set_rope(file: Path, header: GgufHeader, config: Any) -> None:
    """Scale the frequencies of the layers that see the whole context."""
    parameters = getattr(config, "rope_parameters", None)
    if parameters is None:
        return
    whole = parameters.get("full_attention", parameters)
    scaling = rope_scaling(file, header, whole["rope_theta"], _frequency_factors(file, header))
    whole.update(scaling or {})


def _frequency_factors(file: Path, header: GgufHeader) -> Sequence[float] | None:
    tensor = next((each for each in header.tensors if each.name == LLAMA3_FREQUENCIES), None)
    if tensor is None:
        return None
    values = array("f")
    with file.open("rb") as stream:
        stream.seek(header.data_start + tensor.offset)
        values.fromfile(stream, tensor.elements)
    return values


def _read_model(file: Path, source: Path, config: Any, dtype: torch.dtype, report: Report) -> Any:
    """The model with all its weights. Raises StartupError(4)."""
    try:
        with _tensor_progress(partial(report, f"{file.name}: de-quantizing")):
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source,
                gguf_file=file.name,
                config=config,
                dtype=dtype,
                quantization_config=GgufConfig(dequantize=True),
                output_loading_info=True,
            )
    except Exception as error:
        raise StartupError(4, f"{file} cannot be read: {first_line(error)}") from error
    model, result = loaded
    if missing := sorted(result["missing_keys"]):
        raise StartupError(
            4, f"{file} lacks {len(missing)} tensors of `{config.model_type}`, such as {missing[0]}"
        )
    return model


@contextmanager
def _tensor_progress(report: Callable[[int], None]) -> Iterator[None]:
    """Report the progress bar that transformers would draw, which it does not let callers set."""

    def track(tensors: Sequence[Any], desc: str | None = None) -> Iterable[Any]:
        shown = 0
        for index, tensor in enumerate(tensors):
            percent = 100 * index // len(tensors)
            if percent >= shown:
                report(percent)
                shown = percent // _PROGRESS_PERCENT * _PROGRESS_PERCENT + _PROGRESS_PERCENT
            yield tensor

    reader: Any = modeling_gguf_pytorch_utils
    original, reader.tqdm = reader.tqdm, track
    try:
        yield
    finally:
        reader.tqdm = original


def _save(model: Any, folder: Path) -> None:
    """Save a model that is no longer quantized."""
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.generation_config.eos_token_id = model.config.eos_token_id
    model.save_pretrained(folder)
