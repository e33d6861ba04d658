"""The files of the target model that the router uses, and what is wrong with them.

Rule: a file that cannot be used is a RouterStartupError; one that is only odd is a warning.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from router.child import BAD_MODEL, RouterStartupError
from router.config import RouterConfig
from router.openai.sampling_defaults import SamplingDefaults
from router.text.chat_template import ChatTemplate
from router.text.tokenizer import Tokenizer

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The target's tokenizer, chat template and default sampling values."""

    tokenizer: Tokenizer
    template: ChatTemplate | None
    tool_call_parser: str = "auto"
    defaults: SamplingDefaults = field(default_factory=SamplingDefaults)
    """Of OpenAI's routes."""


def load_model(config: RouterConfig) -> ServedModel:
    """The target's tokenizer and chat template. Raises RouterStartupError."""
    try:
        tokenizer = Tokenizer.load(config.model_path)
        template = ChatTemplate.load(config.model_path, config.server.tokenizer_config_path)
    except (OSError, ValueError) as fault:
        raise RouterStartupError(BAD_MODEL, f"tokenizer: {fault}") from fault
    return ServedModel(tokenizer, template, config.server.tool_call_parser, load_defaults(config))


def load_defaults(config: RouterConfig) -> SamplingDefaults:
    """The sampling values of the target's `generation_config.json`, unless they are turned off."""
    if config.server.generation_config == "none":
        return SamplingDefaults()
    defaults = SamplingDefaults.load(Path(config.model_path))
    if defaults.warning:
        _log.warning("%s", defaults.warning)
    if str(defaults):
        _log.info("defaults of the routes under /v1, from generation_config.json: %s", defaults)
    return defaults


def log_unknown_tokens(tokenizer: Tokenizer, vocabulary_size: int) -> None:
    """Warn of tokens that a model with ids below `vocabulary_size` has no embedding for."""
    unknown = tokenizer.names_from(vocabulary_size)
    if unknown:
        _log.warning(
            "tokenizer.json has %d tokens outside the model's vocabulary of %d, such as %r;"
            " prompts that contain one are refused",
            len(unknown),
            vocabulary_size,
            unknown[0],
        )
