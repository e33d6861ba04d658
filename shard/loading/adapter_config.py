"""What `adapter_config.json` of a PEFT adapter says, or why the adapter is not supported.

Reads no weight and imports only the standard library: the launcher checks adapters by it. Whether
a model has the layers that an adapter names is not decided here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any, TypeVar

from shard.errors import StartupError
from shard.loading.model_files import read_object

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
ALL_LINEAR = "all-linear"
"""Value of `target_modules` for every linear layer but the output head."""
_Value = TypeVar("_Value")
_NEUTRAL_VALUES: Mapping[str, tuple[object, ...]] = {
    "bias": ("none", None),
    "modules_to_save": (None, []),
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "lora_bias": (False, None),
    "use_qalora": (False, None),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, [], {}),
    "alora_invocation_tokens": (None, []),
    "layer_replication": (None, []),
}
"""Fields that change what an adapter computes, and their values that do not."""
_CHANGES_THE_BASE = ("pissa", "olora", "loftq", "corda")
"""Starts of `init_lora_weights` by which the weights of the model itself were changed."""


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """Ranks and scales of one adapter."""

    folder: Path
    rank: int
    alpha: float
    use_rslora: bool
    targets: str | Collection[str]
    """A regular expression, `all-linear`, or ends of names of layers."""
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]

    def rank_of(self, layer: str) -> int:
        """The rank of the adapter at the layer with the name `layer`."""
        return _by_pattern(self.rank_pattern, layer, self.rank)

    def scale_of(self, layer: str) -> float:
        """The factor of the adapter's product at `layer`."""
        rank, alpha = self.rank_of(layer), _by_pattern(self.alpha_pattern, layer, self.alpha)
        return alpha / (sqrt(rank) if self.use_rslora else rank)

    def adapts(self, layer: str) -> bool:
        """Whether `target_modules` names the linear layer `layer`."""
        if self.targets == ALL_LINEAR:
            return True
        if isinstance(self.targets, str):
            return re.fullmatch(self.targets, layer) is not None
        return any(layer == target or layer.endswith(f".{target}") for target in self.targets)


def read_adapter_config(folder: Path) -> LoraConfig:
    """The configuration in `folder`. Raises StartupError(4) for what is not supported."""
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise StartupError(4, f"{folder / name} is missing; an adapter needs it")
    file = folder / CONFIG_FILE
    fields = read_object(file)
    _refuse_unsupported(file, fields)
    return LoraConfig(
        folder=folder,
        rank=_read(file, fields, "r", _rank),
        alpha=_read(file, fields, "lora_alpha", _number),
        use_rslora=bool(fields.get("use_rslora")),
        targets=_read(file, fields, "target_modules", _targets),
        rank_pattern=_read_pattern(file, fields, "rank_pattern", _rank),
        alpha_pattern=_read_pattern(file, fields, "alpha_pattern", _number),
    )


def _refuse_unsupported(file: Path, fields: Mapping[str, Any]) -> None:
    if (kind := fields.get("peft_type")) != "LORA":
        raise StartupError(4, f"{file}: `peft_type` {kind!r} is not supported, only 'LORA'")
    for name, neutral in _NEUTRAL_VALUES.items():
        if (value := fields.get(name, neutral[0])) not in neutral:
            raise StartupError(4, f"{file}: `{name}` {value!r} is not supported")
    start = fields.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_THE_BASE):
        raise StartupError(
            4, f"{file}: `init_lora_weights` {start!r} changes the model's own weights"
        )


def _read(file: Path, fields: Mapping[str, Any], name: str, parse: Any) -> Any:
    try:
        return parse(fields[name])
    except (KeyError, TypeError, ValueError, re.error):
        raise StartupError(
            4, f"{file}: `{name}` is {fields.get(name)!r}, which is not valid"
        ) from None


def _read_pattern(file: Path, fields: Mapping[str, Any], name: str, parse: Any) -> dict[str, Any]:
    pattern = fields.get(name) or {}
    try:
        return {key: parse(value) for key, value in pattern.items() if re.compile(key)}
    except (AttributeError, TypeError, ValueError, re.error):
        raise StartupError(4, f"{file}: `{name}` is {pattern!r}, which is not valid") from None


def _rank(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise ValueError
    return float(value)


def _targets(value: Any) -> str | tuple[str, ...]:
    if isinstance(value, str):
        re.compile(value)
        return value
    if not value or not all(isinstance(name, str) for name in value):
        raise ValueError
    return tuple(value)


def _by_pattern(pattern: Mapping[str, _Value], layer: str, default: _Value) -> _Value:
    """The value of the first key that matches the end of `layer`, as in PEFT."""
    keys = (key for key in pattern if re.match(rf"(.*\.)?({key})$", layer))
    return pattern[key] if (key := next(keys, None)) is not None else default
