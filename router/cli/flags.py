"""Command-line flags from config dataclasses: each field is a flag, a variable and a file key.

Field `max_batch_size` is the flag `--max-batch-size`, the variable MAX_BATCH_SIZE and the key
`max_batch_size` of the configuration file. The flag overrides the variable and the variable
overrides the file; an empty variable counts as not set. A tuple field is a flag that may be
repeated, and a variable with commas. Metadata of a field: `help`, `choices`, `short`, `aliases`,
and `environment=None` for a field without a variable. Errors are ValueErrors of one line that name
the field. Whether the values of a class fit together is for its own `check` to decide.
"""

from __future__ import annotations

import argparse
import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, fields
from inspect import getdoc
from types import NoneType
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

from router.cli.config_file import RawValue, load

TRUE, FALSE = ("true", "1"), ("false", "0")


@dataclass(frozen=True, slots=True)
class RawOptions:
    """Unparsed values by field name, from the three places where an option can be set."""

    flags: Mapping[str, RawValue | None]
    environment: Mapping[str, str]
    file: Mapping[str, RawValue]

    def raw_value(self, item: Field[Any], name: str) -> RawValue | None:
        """The value that is set for `item` under one of its names; None if there is none."""
        return (
            self.flags[name]
            or self.environment.get(_environment_name(item, name))
            or self.file.get(name)
        )


class FlagParser(argparse.ArgumentParser):
    """An argparse parser with one group of flags per config class; it raises instead of exiting."""

    def __init__(self, groups: Mapping[str, type], name: str, description: str) -> None:
        super().__init__(name, "%(prog)s [flags]", description, allow_abbrev=False)
        self._groups = groups
        for title, config in groups.items():
            group = self.add_argument_group(title, _summary(config))
            for item in fields(config):
                _add_flag(group, config, item)

    def parse_configs(
        self, arguments: Sequence[str], environment: Mapping[str, str]
    ) -> dict[str, Any]:
        """Parse one config object per group, by the group's title.

        The flag `--config`, if a class declares it, is the path of a configuration file. Raises
        ValueError for anything unknown or malformed. Exits after `--help`.
        """
        namespace, unknown = self.parse_known_args(arguments)
        if unknown:
            raise ValueError(self._unknown_name_message("argument", unknown[0]))
        flags = vars(namespace)
        path = flags.get("config")
        options = RawOptions(flags, environment, load(path) if path else {})
        for key in options.file:
            if key not in flags or key == "config":
                raise ValueError(self._unknown_name_message("setting", key))
        return {title: _build_config(config, options) for title, config in self._groups.items()}

    def error(self, message: str) -> NoReturn:
        """Raise argparse's own errors as ValueError."""
        raise ValueError(message)

    def _unknown_name_message(self, kind: str, text: str) -> str:
        name = text.partition("=")[0]
        known = list(self._option_string_actions)
        if kind == "setting":
            known = [flag.removeprefix("--").replace("-", "_") for flag in known]
        close = difflib.get_close_matches(name, known, n=1)
        return f"unknown {kind} `{name}`" + (f"; did you mean `{close[0]}`?" if close else "")


def set_variables(groups: Mapping[str, type], environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that set fields of `groups`, by name; secret values are replaced."""
    variables = {
        _environment_name(item, name): item
        for config in groups.values()
        for item in fields(config)
        for name in _field_names(item)
    }
    return {
        variable: environment[variable] if item.repr else "(secret)"
        for variable, item in variables.items()
        if environment.get(variable)
    }


def _summary(config: type) -> str | None:
    """The first line of the class's docstring; None if no flag of the class is shown."""
    if all(item.metadata["help"] is argparse.SUPPRESS for item in fields(config)):
        return None
    return (getdoc(config) or "").partition("\n")[0]


def _add_flag(group: argparse._ArgumentGroup, config: type, item: Field[Any]) -> None:
    options: dict[str, Any] = {"metavar": "|".join(item.metadata.get("choices", ())) or "VALUE"}
    if _value_type(config, item) is bool:
        options = {"metavar": "true|false", "nargs": "?", "const": TRUE[0]}
    elif _is_repeatable(config, item):
        options["action"] = "append"
    for name in _field_names(item):
        short = [item.metadata["short"]] if "short" in item.metadata else []
        long = "--" + name.replace("_", "-")
        group.add_argument(long, *short, help=_help_text(item, name), **options)


def _field_names(item: Field[Any]) -> list[str]:
    return [item.name, *(alias.replace("-", "_") for alias in item.metadata.get("aliases", ()))]


def _help_text(item: Field[Any], name: str) -> str:
    text: str = item.metadata["help"]
    if text is argparse.SUPPRESS:
        return text
    if name != item.name:
        text = f"same as --{item.name.replace('_', '-')}"
    elif item.default not in (None, ()):
        text += f" [default: {item.default}]"
    variable = _environment_name(item, name)
    return (text + (f" [env: {variable}]" if variable else "")).replace("%", "%%")


def _environment_name(item: Field[Any], name: str) -> str:
    """The name of the variable; empty for a field that the environment must not set."""
    return name.upper() if item.metadata.get("environment", name) else ""


def _value_type(config: type, item: Field[Any]) -> type:
    """The type of one value of a field: `int` for `int | None` and for `tuple[int, ...]`."""
    hint = get_type_hints(config)[item.name]
    kind: type = next(kind for kind in get_args(hint) or (hint,) if kind is not NoneType)
    return kind


def _is_repeatable(config: type, item: Field[Any]) -> bool:
    return get_origin(get_type_hints(config)[item.name]) is tuple


def _build_config(config: type, options: RawOptions) -> Any:
    values = {}
    for item in fields(config):
        raw_values = {
            name: raw for name in _field_names(item) if (raw := options.raw_value(item, name))
        }
        if len(raw_values) > 1:
            raise ValueError(f"Both {' and '.join(raw_values)} are set")
        for name, raw in raw_values.items():
            values[item.name] = _convert_option(config, item, name, raw)
    return config(**values)


def _convert_option(config: type, item: Field[Any], name: str, raw: RawValue) -> Any:
    kind = _value_type(config, item)
    if _is_repeatable(config, item):
        parts = raw if isinstance(raw, list) else raw.split(",")
        return tuple(_convert_value(item, kind, name, part.strip()) for part in parts)
    if isinstance(raw, list):
        raise ValueError(f"`{name}` takes one value")
    return _convert_value(item, kind, name, raw)


def _convert_value(item: Field[Any], value_type: type, name: str, raw: str) -> Any:
    choices = TRUE + FALSE if value_type is bool else item.metadata.get("choices", ())
    text = raw.lower() if value_type is bool else raw
    if choices and text not in choices:
        raise ValueError(f"`{name}`: `{raw}` is not one of {', '.join(choices)}")
    try:
        value = text in TRUE if value_type is bool else value_type(text)
    except ValueError:
        raise ValueError(f"`{name}`: `{raw}` is not of type {value_type.__name__}") from None
    if value_type is float and not math.isfinite(value):
        raise ValueError(f"`{name}`: `{raw}` is not finite")
    return value
