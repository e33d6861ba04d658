"""Reads parameters from safetensors files into a module that was built on the meta device.

A rank reads only the slices that it keeps. Names in the files are the module's own, or mapped to
them by `conversion`. A tied parameter that the files leave out is read under the name of the one it
is tied to, and shares its memory if both keep the same part. A tensor that is missing or damaged is
a StartupError that names the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from shard.errors import StartupError
from shard.loading.conversion import TensorSource
from shard.loading.partition import WHOLE, Partition

ProgressCallback = Callable[[int, int], None]
"""Called with the number of bytes read so far and in total."""
INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
_FLOAT_DTYPES = ("F64", "F32", "F16", "BF16")


class Weights:
    """The tensors of a model folder by name. Holds the files open; a context manager."""

    def __init__(self, folder: Path) -> None:
        """Open the files. Raises StartupError(4) if there are none or one cannot be read."""
        self._exit_stack = ExitStack()
        self._locations: dict[str, tuple[Path, Any]] = {}
        self._converted: dict[str, TensorSource] = {}
        try:
            for file in _checkpoint_files(folder):
                handle = self._exit_stack.enter_context(safe_open(file, framework="pt"))
                self._locations.update({name: (file, handle) for name in handle.keys()})  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            self._exit_stack.close()
            raise StartupError(4, f"{file} cannot be read: {error}; download it again") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._exit_stack.close()

    @property
    def names(self) -> frozenset[str]:
        """The names of all stored tensors, and of those that `add_converted` added."""
        return frozenset((*self._locations, *self._converted))

    def add_converted(self, sources: Mapping[str, TensorSource]) -> None:
        """Add tensors that are made of stored ones."""
        self._converted.update(sources)

    def read(self, name: str, cut: Partition, like: Tensor, device: torch.device) -> Tensor:
        """Read the part `cut` of tensor `name` to `device`, with the dtype of `like`.

        `like` has the shape of the whole tensor. Raises StartupError(4), naming the file, if the
        stored tensor has another shape, is not floating point, or cannot be read.
        """
        stored, (file, handle) = self._source(name).parts[0][0], self._location(name)
        whole = self.open(name, like)
        try:
            part = torch.empty(cut.shape(like.shape), dtype=like.dtype, device=device)
            cut.copy_to(whole if like.ndim else handle.get_tensor(stored), part)
        except (SafetensorError, OSError, ValueError) as error:
            raise _unreadable(file, name, error) from error
        return part

    def open(self, name: str, like: Tensor) -> Any:
        """Tensor `name` as a lazy slice; nothing of it is read. Raises as `read` does."""
        file, _ = self._location(name)
        try:
            whole = self._source(name).open(self._slice)
            shape, dtype = whole.get_shape(), whole.get_dtype()
        except (SafetensorError, OSError, ValueError) as error:
            raise _unreadable(file, name, error) from error
        if tuple(shape) != tuple(like.shape):
            raise StartupError(4, f"{file}: `{name}` has shape {shape}, not {list(like.shape)}")
        if like.is_floating_point() and dtype not in _FLOAT_DTYPES:
            raise StartupError(4, f"{file}: `{name}` has dtype {dtype}, not floating point")
        return whole

    def _source(self, name: str) -> TensorSource:
        return self._converted.get(name, TensorSource(((name,),), False))

    def _location(self, name: str) -> tuple[Path, Any]:
        return self._locations[self._source(name).parts[0][0]]

    def _slice(self, name: str) -> Any:
        return self._locations[name][1].get_slice(name)


def _unreadable(file: Path, name: str, error: Exception) -> StartupError:
    return StartupError(4, f"{file}: `{name}` cannot be read: {error}; download it again")


def check_parameters(module: nn.Module, weights: Weights) -> None:
    """Check names, shapes and types of all that `load_parameters` would read, and read nothing.

    Raises StartupError(4).
    """
    for name, like in _named_slots(module):
        weights.open(_stored_name(name, module, weights), like)


def load_parameters(
    module: nn.Module,
    weights: Weights,
    cuts: Mapping[str, Partition],
    device: torch.device,
    report: ProgressCallback,
) -> None:
    """Load every parameter and buffer of `module`, which is on the meta device, to `device`.

    Raises StartupError(4) for a parameter that `weights` does not have.
    """
    slots = list(_named_slots(module))
    sources = {name: _stored_name(name, module, weights) for name, _ in slots}
    wanted = {(sources[name], cuts.get(name, WHOLE)): like for name, like in slots}
    total = sum(partition_bytes(cut, like) for (_, cut), like in wanted.items())
    done, values = 0, {}
    for (source, cut), like in wanted.items():
        values[source, cut] = weights.read(source, cut, like, device)
        done += partition_bytes(cut, like)
        report(done, total)
    for key, value in values.items():
        if isinstance(wanted[key], nn.Parameter):
            values[key] = nn.Parameter(value, requires_grad=False)
        values[key]._is_hf_initialized = True  # type: ignore[attr-defined]
    for name, _ in slots:
        set_parameter(module, name, values[sources[name], cuts.get(name, WHOLE)])
    _compute_buffers(module, device)


def set_parameter(module: nn.Module, name: str, value: Tensor) -> None:
    """Replace the parameter or buffer `name`."""
    owner, _, leaf = name.rpartition(".")
    part = module.get_submodule(owner)
    table: dict[str, Any] = part._parameters if leaf in part._parameters else part._buffers
    table[leaf] = value


def _compute_buffers(module: nn.Module, device: torch.device) -> None:
    """Compute the buffers that no file holds, such as rotary frequencies.

    The model's own `initialize_weights` does it, and skips the parameters that were read, since
    these are marked as initialized.
    """
    model: Any = module
    for name, buffer in model.named_non_persistent_buffers():
        empty = torch.empty(buffer.shape, dtype=buffer.dtype, device=device)
        set_parameter(module, name, empty)
    model.initialize_weights()


def _named_slots(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.state_dict(keep_vars=True).items()


def _stored_name(name: str, module: nn.Module, weights: Weights) -> str:
    """The name under which `name` is stored: its own, or that of a parameter tied to it."""
    ties: Mapping[str, str] = getattr(module, "all_tied_weights_keys", None) or {}
    root = ties.get(name, name)
    tied = (name, root, *(other for other, source in ties.items() if source == root))
    stored = next((other for other in tied if other in weights.names), None)
    if stored is None:
        raise StartupError(
            4, f"the weights lack `{name}`, which the architecture needs; download them again"
        )
    return stored


def partition_bytes(cut: Partition, like: Tensor) -> int:
    """Bytes of the part `cut` of the tensor `like`."""
    return torch.Size(cut.shape(tuple(like.shape))).numel() * like.element_size()


def _checkpoint_files(folder: Path) -> list[Path]:
    """The files of the checkpoint, chosen as transformers does."""
    if (folder / SINGLE_FILE).exists():
        return [folder / SINGLE_FILE]
    index = folder / INDEX_FILE
    if not index.exists():
        raise StartupError(4, f"{folder} holds neither {SINGLE_FILE} nor {INDEX_FILE}")
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise StartupError(4, f"{index} is damaged: {error}") from error
    for name in names:
        if not (folder / name).exists():
            raise StartupError(4, f"{folder / name} is missing, although {INDEX_FILE} names it")
    return [folder / name for name in names]
