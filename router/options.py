"""From config dataclasses to a command line, and back: a field is a flag and a variable.

Field `max_batch_size` is `--max-batch-size` and MAX_BATCH_SIZE; the flag wins, and an empty
variable counts as absent. Metadata of a field: `help`, `choices`, `short`, `aliases`, and
`environment=None` for a field without a variable. What is wrong is a ValueError of one line that
names the field; whether values fit together is the dataclass's own affair.
"""

from __future__ import annotations

import argparse
import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, fields
from types import NoneType
from typing import Any, NoReturn, get_args, get_type_hints

TRUE, FALSE = ("true", "1"), ("false", "0")
LATER = frozenset(
    "api-key api-key-file config cors-allow-origin cuda-graphs"  # noqa: SIM905
    " disable-custom-kernels disable-grammar-support enable-prefill-logprobs env"
    " huggingface-hub-cache kv-cache-dtype lora-adapters master-addr master-port max-waiting-tokens"
    " ngrok ngrok-authtoken ngrok-edge otlp-endpoint otlp-service-name prometheus-port quantize"
    " rope-factor rope-scaling tokenizer-config-path trust-remote-code usage-stats"
    " waiting-served-ratio watermark-delta watermark-gamma"
    " weights-cache-override".split()
)
"""Flags that operators know from TGI and that nothing here reads yet: refused by name."""


class Parser(argparse.ArgumentParser):
    """Every flag of `groups`, a config class per title; errors are raised, not printed."""

    def __init__(self, groups: Mapping[str, type], name: str, about: str) -> None:
        super().__init__(name, "%(prog)s [flags]", about, allow_abbrev=False)
        self._groups = groups
        for title, config in groups.items():
            group = self.add_argument_group(title)
            for item in fields(config):
                _add(group, item, _kind(config, item))

    def read(self, arguments: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
        """One config object per title. Raises ValueError; exits after `--help`."""
        given, unknown = self.parse_known_args(arguments)
        if unknown:
            raise ValueError(self._doubt(unknown[0]))
        return {
            title: _build(config, vars(given), environment)
            for title, config in self._groups.items()
        }

    def error(self, message: str) -> NoReturn:
        """What argparse finds wrong."""
        raise ValueError(message)

    def _doubt(self, argument: str) -> str:
        name = argument.partition("=")[0]
        if name.removeprefix("--") in LATER:
            return f"`{name}` is not supported yet"
        close = difflib.get_close_matches(name, self._option_string_actions, n=1)
        return f"unknown argument `{name}`" + (f"; did you mean `{close[0]}`?" if close else "")


def _add(group: argparse._ArgumentGroup, item: Field[Any], kind: type) -> None:
    shape: dict[str, Any] = {"metavar": "|".join(item.metadata.get("choices", ())) or "VALUE"}
    if kind is bool:
        shape = {"metavar": "true|false", "nargs": "?", "const": TRUE[0]}
    for name in _names(item):
        short = [item.metadata["short"]] if "short" in item.metadata else []
        long = "--" + name.replace("_", "-")
        group.add_argument(long, *short, help=_help(item, name), **shape)


def _names(item: Field[Any]) -> list[str]:
    return [item.name, *(alias.replace("-", "_") for alias in item.metadata.get("aliases", ()))]


def _help(item: Field[Any], name: str) -> str:
    text: str = item.metadata["help"]
    if text is argparse.SUPPRESS:
        return text
    text = text if name == item.name else f"the same as --{item.name.replace('_', '-')}"
    text += "" if item.default is None or name != item.name else f" [default: {item.default}]"
    variable = _variable(item, name)
    return (text + (f" [env: {variable}]" if variable else "")).replace("%", "%%")


def _variable(item: Field[Any], name: str) -> str:
    """Empty for a field that the environment must not set."""
    return name.upper() if item.metadata.get("environment", name) else ""


def _kind(config: type, item: Field[Any]) -> type:
    """The type of a value that is given: `int | None` is `int`."""
    hint = get_type_hints(config)[item.name]
    kind: type = next(kind for kind in get_args(hint) or (hint,) if kind is not NoneType)
    return kind


def _build(config: type, given: Mapping[str, str], environment: Mapping[str, str]) -> Any:
    values = {}
    for item in fields(config):
        found = dict(_settings(item, given, environment))
        if len(found) > 1:
            raise ValueError(f"Both {' and '.join(found)} are set")
        for name, raw in found.items():
            values[item.name] = _value(item, _kind(config, item), name, raw)
    return config(**values)


def _settings(
    item: Field[Any], given: Mapping[str, str], environment: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    for name in _names(item):
        raw = given[name] if given[name] is not None else environment.get(_variable(item, name))
        if raw:
            yield name, raw


def _value(item: Field[Any], kind: type, name: str, raw: str) -> Any:
    choices = TRUE + FALSE if kind is bool else item.metadata.get("choices", ())
    text = raw.lower() if kind is bool else raw
    if choices and text not in choices:
        raise ValueError(f"`{name}`: `{raw}` is none of {', '.join(choices)}")
    try:
        value = text in TRUE if kind is bool else kind(text)
    except ValueError:
        raise ValueError(f"`{name}`: `{raw}` is not of type {kind.__name__}") from None
    if kind is float and not math.isfinite(value):
        raise ValueError(f"`{name}`: `{raw}` is not finite")
    return value
