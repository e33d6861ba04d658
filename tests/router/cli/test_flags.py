"""Flags, variables and file keys from the fields of a dataclass."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from router.cli.flags import FlagParser


def option(default: Any, **more: Any) -> Any:
    return field(default=default, metadata={"help": "text", **more})


@dataclass(frozen=True)
class Config:
    """A summary."""

    max_size: int | None = option(None, aliases=("max-length",))
    ratio: float = option(2.0)
    color: str = option("red", choices=("red", "blue"))
    verbose: bool = option(False)
    hostname: str = option("here", environment=None)
    origins: tuple[str, ...] = option(())
    config: str | None = option(None, environment=None)


@dataclass(frozen=True)
class HiddenConfig:
    """Also hidden."""

    secret_flag: bool = field(default=False, metadata={"help": argparse.SUPPRESS})


def read(*arguments: str, **environment: str) -> Config:
    parser = FlagParser({"config": Config, "hidden": HiddenConfig}, "program", "about")
    config: Config = parser.parse_configs(arguments, environment)["config"]
    return config


def test_the_flag_overrides_the_variable_and_the_variable_the_default() -> None:
    assert read().max_size is None
    assert read(MAX_SIZE="3").max_size == 3
    assert read("--max-size", "4", MAX_SIZE="3").max_size == 4


def test_an_empty_variable_counts_as_absent() -> None:
    assert read(RATIO="").ratio == 2.0


def test_a_field_without_a_variable_ignores_the_environment() -> None:
    assert read(HOSTNAME="container").hostname == "here"


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("1", True), ("TRUE", True), ("false", False), ("0", False)]
)
def test_booleans_are_words_or_digits(text: str, value: bool) -> None:
    assert read("--verbose", text).verbose is value
    assert read(VERBOSE=text).verbose is value


def test_a_boolean_flag_alone_means_true() -> None:
    assert read("--verbose").verbose is True


def test_an_alias_sets_the_same_field_but_not_together_with_the_name() -> None:
    assert read("--max-length", "5").max_size == 5
    assert read(MAX_LENGTH="5").max_size == 5
    with pytest.raises(ValueError, match="Both max_size and max_length are set"):
        read("--max-length", "5", MAX_SIZE="5")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--max-size", "many"), "`max_size`: `many` is not of type int"),
        (("--color", "green"), "`color`: `green` is not one of red, blue"),
        (("--ratio", "nan"), "`ratio`: `nan` is not finite"),
        (("--verbose", "maybe"), "`verbose`: `maybe` is not one of true, 1, false, 0"),
        (("--colour", "red"), "unknown argument `--colour`; did you mean `--color`?"),
        (("stray",), "unknown argument `stray`"),
        (("--max-size",), "argument --max-size: expected one argument"),
        (("--max", "5"), "unknown argument `--max`"),
    ],
)
def test_an_error_is_one_line_that_names_the_flag(arguments: tuple[str, ...], text: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        read(*arguments)
    assert str(caught.value).startswith(text)


def test_help_shows_summary_default_and_variable_and_nothing_that_is_hidden(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        read("--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert "config: A summary." in shown
    assert "text [default: 2.0] [env: RATIO]" in shown
    assert "hidden" not in shown
    assert "text [default: here]" in shown
    assert "HOSTNAME" not in shown.replace("--hostname", "")


def test_a_flag_may_be_repeated_and_its_variable_holds_commas() -> None:
    assert read("--origins", "a", "--origins", "b").origins == ("a", "b")
    assert read(ORIGINS="a, b").origins == ("a", "b")
    assert read().origins == ()


def test_variable_and_flag_override_the_configuration_file(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('max-length = 3\nratio = 4\nverbose = true\norigins = ["a,b"]\ncolor = "blue"')
    flags = ("--config", str(file))
    assert read(*flags) == Config(3, 4.0, "blue", True, origins=("a,b",), config=str(file))
    assert read(*flags, RATIO="5").ratio == 5.0
    assert read(*flags, "--ratio", "6", RATIO="5").ratio == 6.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rato = 1", "unknown setting `rato`; did you mean `ratio`?"),
        ('config = "x"', "unknown setting `config`"),
        ("ratio = [1]", "`ratio` must be a string, a number, a boolean or an array of strings"),
        ('ratio = ["1"]', "`ratio` takes one value"),
        ("[table]\nratio = 1", "`table` must be a string, a number"),
        ("ratio =", "`config`: FILE is not valid TOML: "),
        ("max_size = 1\nmax_length = 1", "Both max_size and max_length are set"),
    ],
)
def test_a_wrong_key_of_the_configuration_file_is_named(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        read("--config", str(file))
    assert str(caught.value).startswith(message.replace("FILE", str(file)))


def test_a_missing_configuration_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing cannot be read: No such file"):
        read("--config", str(tmp_path / "nothing"))
