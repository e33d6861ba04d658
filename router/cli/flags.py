"""From config dataclasses to a command line, and back: a field is a flag and a variable.

Field `max_batch_size` is `--max-batch-size`, MAX_BATCH_SIZE and a key of the file of settings; the
flag wins over the variable, the variable over the file, and an empty variable counts as absent. A
tuple is a flag that may be repeated, and its variable holds commas. Metadata of a field: `help`,
`choices`, `short`, `aliases`, and `environment=None` for a field without a variable. What is wrong
is a ValueError of one line that names the field; whether values fit together is the dataclass's
own affair.
"""

from __future__ import annotations

import argparse
import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, fields
from types import NoneType
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

from router.cli.config_file import RawValue, load

TRUE, FALSE = ("true", "1"), ("false", "0")


@dataclass(frozen=True, slots=True)
class RawOptions:
    """Raw values by the names of fields, from the three places that a field can be set in."""

    flags: Mapping[str, RawValue | None]
    environment: Mapping[str, str]
    file: Mapping[str, RawValue]

    def raw_value(self, item: Field[Any], name: str) -> RawValue | None:
        """The value for `item` under one of its names, from the place that wins."""
        return (
            self.flags[name]
            or self.environment.get(_environment_name(item, name))
            or self.file.get(name)
        )


class FlagParser(argparse.ArgumentParser):
    """Every flag of `groups`, a config class per title; errors are raised, not printed."""

    def __init__(self, groups: Mapping[str, type], name: str, description: str) -> None:
        super().__init__(name, "%(prog)s [flags]", description, allow_abbrev=False)
        self._groups = groups
        for title, config in groups.items():
            group = self.add_argument_group(title)
            for item in fields(config):
                _add_flag(group, config, item)

    def parse_configs(
        self, arguments: Sequence[str], environment: Mapping[str, str]
    ) -> dict[str, Any]:
        """One config object per title. Raises ValueError; exits after `--help`.

        The value of a flag `--config` is the path of a file of settings.
        """
        namespace, unknown = self.parse_known_args(arguments)
        if unknown:
            raise ValueError(self._unknown_name_message("argument", unknown[0]))
        flags = vars(namespace)
        path = flags.get("config")
        given = RawOptions(flags, environment, load(path) if path else {})
        for key in given.file:
            if key not in flags or key == "config":
                raise ValueError(self._unknown_name_message("setting", key))
        return {title: _build_config(config, given) for title, config in self._groups.items()}

    def error(self, message: str) -> NoReturn:
        """What argparse finds wrong."""
        raise ValueError(message)

    def _unknown_name_message(self, kind: str, text: str) -> str:
        name = text.partition("=")[0]
        known = list(self._option_string_actions)
        if kind == "setting":
            known = [flag.removeprefix("--").replace("-", "_") for flag in known]
        close = difflib.get_close_matches(name, known, n=1)
        return f"unknown {kind} `{name}`" + (f"; did you mean `{close[0]}`?" if close else "")


def _add_flag(group: argparse._ArgumentGroup, config: type, item: Field[Any]) -> None:
    shape: dict[str, Any] = {"metavar": "|".join(item.metadata.get("choices", ())) or "VALUE"}
    if _value_type(config, item) is bool:
        shape = {"metavar": "true|false", "nargs": "?", "const": TRUE[0]}
    elif _is_repeatable(config, item):
        shape["action"] = "append"
    for name in _flag_names(item):
        short = [item.metadata["short"]] if "short" in item.metadata else []
        long = "--" + name.replace("_", "-")
        group.add_argument(long, *short, help=_help_text(item, name), **shape)


def _flag_names(item: Field[Any]) -> list[str]:
    return [item.name, *(alias.replace("-", "_") for alias in item.metadata.get("aliases", ()))]


def _help_text(item: Field[Any], name: str) -> str:
    text: str = item.metadata["help"]
    if text is argparse.SUPPRESS:
        return text
    text = text if name == item.name else f"the same as --{item.name.replace('_', '-')}"
    unset = item.default in (None, ()) or name != item.name
    text += "" if unset else f" [default: {item.default}]"
    variable = _environment_name(item, name)
    return (text + (f" [env: {variable}]" if variable else "")).replace("%", "%%")


def _environment_name(item: Field[Any], name: str) -> str:
    """Empty for a field that the environment must not set."""
    return name.upper() if item.metadata.get("environment", name) else ""


def _value_type(config: type, item: Field[Any]) -> type:
    """The type of a value that is given: `int | None` is `int`, as is `tuple[int, ...]`."""
    hint = get_type_hints(config)[item.name]
    kind: type = next(kind for kind in get_args(hint) or (hint,) if kind is not NoneType)
    return kind


def _is_repeatable(config: type, item: Field[Any]) -> bool:
    return get_origin(get_type_hints(config)[item.name]) is tuple


def _build_config(config: type, raw_options: RawOptions) -> Any:
    values = {}
    for item in fields(config):
        found = {
            name: raw for name in _flag_names(item) if (raw := raw_options.raw_value(item, name))
        }
        if len(found) > 1:
            raise ValueError(f"Both {' and '.join(found)} are set")
        for name, raw in found.items():
            values[item.name] = _convert_option(config, item, name, raw)
    return config(**values)


def _convert_option(config: type, item: Field[Any], name: str, raw: RawValue) -> Any:
    kind = _value_type(config, item)
    if _is_repeatable(config, item):
        several = raw if isinstance(raw, list) else raw.split(",")
        return tuple(_convert_value(item, kind, name, one.strip()) for one in several)
    if isinstance(raw, list):
        raise ValueError(f"`{name}` takes one value")
    return _convert_value(item, kind, name, raw)


def _convert_value(item: Field[Any], value_type: type, name: str, raw: str) -> Any:
    choices = TRUE + FALSE if value_type is bool else item.metadata.get("choices", ())
    text = raw.lower() if value_type is bool else raw
    if choices and text not in choices:
        raise ValueError(f"`{name}`: `{raw}` is none of {', '.join(choices)}")
    try:
        value = text in TRUE if value_type is bool else value_type(text)
    except ValueError:
        raise ValueError(f"`{name}`: `{raw}` is not of type {value_type.__name__}") from None
    if value_type is float and not math.isfinite(value):
        raise ValueError(f"`{name}`: `{raw}` is not finite")
    return value
