"""Parameters from safetensors files straight into a module that was built without memory.

A rank reads the slices that it keeps and nothing else. Names in the files are the module's own,
or `merging` says what they are to it; what it cannot say is `loading`'s to route elsewhere. A tied
parameter that the files leave out is read from its partner's name, and shares its memory where
both keep the same part. What a file promises and does not hold is a Fault that names the file.
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

from shard.errors import Fault
from shard.loading.conversion import Source
from shard.loading.partition import WHOLE, Cut

Report = Callable[[int, int], None]
"""Called with bytes read and bytes to read."""
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_FLOATING = ("F64", "F32", "F16", "BF16")


class Weights:
    """The tensors of a model folder by name; open files, nothing read. Use with `with`."""

    def __init__(self, folder: Path) -> None:
        """Raises Fault 4 for a folder without weights or with an unreadable file."""
        self._open = ExitStack()
        self._places: dict[str, tuple[Path, Any]] = {}
        self._made: dict[str, Source] = {}
        try:
            for file in _files(folder):
                handle = self._open.enter_context(safe_open(file, framework="pt"))
                self._places.update({name: (file, handle) for name in handle.keys()})  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            self._open.close()
            raise Fault(4, f"{file} cannot be read: {error}; fetch it again") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def names(self) -> frozenset[str]:
        """Every tensor's name, and those of what `adopt` made of them."""
        return frozenset((*self._places, *self._made))

    def adopt(self, sources: Mapping[str, Source]) -> None:
        """Let other names stand for what is made of these tensors."""
        self._made.update(sources)

    def read(self, name: str, cut: Cut, like: Tensor, device: torch.device) -> Tensor:
        """This rank's part of `name` with the dtype of `like`, whose shape is the whole's.

        Raises Fault 4, naming the file, where it holds something else or less than it says.
        """
        source = self._made.get(name, Source(((name,),), False))
        file, handle = self._places[source.parts[0][0]]
        try:
            whole = source.open(self._slice)
            if tuple(whole.get_shape()) != tuple(like.shape):
                raise Fault(4, f"{file}: `{name}` is {whole.get_shape()}, not {list(like.shape)}")
            if like.is_floating_point() and whole.get_dtype() not in _FLOATING:
                raise Fault(4, f"{file}: `{name}` holds {whole.get_dtype()}, not floating point")
            part = torch.empty(cut.shape(like.shape), dtype=like.dtype, device=device)
            cut.copy(whole if like.ndim else handle.get_tensor(source.parts[0][0]), part)
        except (SafetensorError, OSError, ValueError) as error:
            raise Fault(4, f"{file}: `{name}` cannot be read: {error}; fetch it again") from error
        return part

    def _slice(self, name: str) -> Any:
        return self._places[name][1].get_slice(name)


def fill(
    module: nn.Module,
    weights: Weights,
    cuts: Mapping[str, Cut],
    device: torch.device,
    report: Report,
) -> None:
    """Give every parameter and buffer of `module`, built on the meta device, its value here.

    Raises Fault 4 for a parameter that `weights` lacks.
    """
    slots = list(_slots(module))
    sources = {name: _source(name, module, weights) for name, _ in slots}
    wanted = {(sources[name], cuts.get(name, WHOLE)): like for name, like in slots}
    total = sum(_bytes(cut, like) for (_, cut), like in wanted.items())
    done, values = 0, {}
    for (source, cut), like in wanted.items():
        values[source, cut] = weights.read(source, cut, like, device)
        done += _bytes(cut, like)
        report(done, total)
    for key, value in values.items():
        if isinstance(wanted[key], nn.Parameter):
            values[key] = nn.Parameter(value, requires_grad=False)
        values[key]._is_hf_initialized = True  # type: ignore[attr-defined]
    for name, _ in slots:
        put(module, name, values[sources[name], cuts.get(name, WHOLE)])
    _compute_buffers(module, device)


def put(module: nn.Module, name: str, value: Tensor) -> None:
    """Replace the parameter or buffer `name`."""
    owner, _, leaf = name.rpartition(".")
    part = module.get_submodule(owner)
    table: dict[str, Any] = part._parameters if leaf in part._parameters else part._buffers
    table[leaf] = value


def _compute_buffers(module: nn.Module, device: torch.device) -> None:
    """Buffers that no file holds, such as rotary frequencies, by the model's own initialisation.

    It leaves alone what is flagged as initialised, which is every parameter that was read.
    """
    owned: Any = module
    for name, buffer in owned.named_non_persistent_buffers():
        put(module, name, torch.empty_like(buffer, device=device))
    owned.initialize_weights()


def _slots(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.state_dict(keep_vars=True).items()


def _source(name: str, module: nn.Module, weights: Weights) -> str:
    """The name under which the files hold `name`: its own, or that of a parameter tied to it."""
    ties: Mapping[str, str] = getattr(module, "all_tied_weights_keys", None) or {}
    root = ties.get(name, name)
    family = (name, root, *(own for own, source in ties.items() if source == root))
    found = next((own for own in family if own in weights.names), None)
    if found is None:
        raise Fault(4, f"the weights lack `{name}`, which the architecture needs; fetch them again")
    return found


def _bytes(cut: Cut, like: Tensor) -> int:
    return torch.Size(cut.shape(tuple(like.shape))).numel() * like.element_size()


def _files(folder: Path) -> list[Path]:
    """The files that make up the checkpoint, as transformers chooses them."""
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    index = folder / INDEX
    if not index.exists():
        raise Fault(4, f"{folder} holds neither {SINGLE} nor {INDEX}")
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise Fault(4, f"{index} is damaged: {error}") from error
    for name in names:
        if not (folder / name).exists():
            raise Fault(4, f"{folder / name} is missing, although {INDEX} names it")
    return [folder / name for name in names]
