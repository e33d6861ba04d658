"""Short prompts of everyday use, as the model of a folder would receive them.

Decides the texts and their form: rendered by the folder's chat template if it has one, plain text
otherwise. It does not know what the prompts are measured for.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from tokenizers import Tokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from shard.errors import StartupError
from shard.loading.model_files import read_object
from shard.wire.protocol import Ids

TEXTS = (
    "What does shutil.copy do?",
    "How do I open a file?",
    "What does json.dumps do?",
    "What is a class in Python?",
)
"""Questions that small models of code and large models of everything can answer."""
_TEMPLATE_ERRORS = (TemplateError, TypeError, ValueError, ArithmeticError, LookupError)
"""What a template may raise, as the router has it."""


class NoSamplePrompts(Exception):
    """A folder for which there are no prompts; the text says why, in one line."""


def sample_prompts(folder: Path, vocab_size: int) -> tuple[Ids, ...]:
    """The token ids of `TEXTS`, each as the only message of a chat if there is a chat template.

    Raises NoSamplePrompts if a file of `folder` is missing, damaged or of another vocabulary.
    """
    tokenizer = _tokenizer(folder / "tokenizer.json")
    try:
        template = _chat_template(folder)
        texts = TEXTS if template is None else _render(template, _special_tokens(folder))
    except StartupError as error:
        raise NoSamplePrompts(error.text) from error
    except _TEMPLATE_ERRORS as error:
        raise NoSamplePrompts(f"the chat template fails: {error}") from error
    encoded = (tokenizer.encode(text, add_special_tokens=template is None) for text in texts)
    prompts = tuple(tuple(each.ids) for each in encoded)
    if any(not ids or max(ids) >= vocab_size for ids in prompts):
        raise NoSamplePrompts("tokenizer.json does not fit the model's vocabulary")
    return prompts


def _tokenizer(path: Path) -> Tokenizer:
    if not path.exists():
        raise NoSamplePrompts("tokenizer.json is missing")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers has no exceptions of its own
        raise NoSamplePrompts(f"tokenizer.json is damaged: {error}") from error


def _render(template: str, special_tokens: Mapping[str, str]) -> list[str]:
    chats = [[{"role": "user", "content": text}] for text in TEXTS]
    variables: dict[str, Any] = {**special_tokens, "add_generation_prompt": True}
    rendered: Any = render_jinja_template(chats, chat_template=template, **variables)
    return list(rendered[0])


def _chat_template(folder: Path) -> str | None:
    """The template in a file of its own, otherwise the default one of the tokenizer's."""
    if (file := folder / "chat_template.jinja").exists():
        return file.read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        source = _read_if_present(folder / name).get("chat_template")
        if isinstance(source, list):
            source = {each["name"]: each["template"] for each in source}.get("default")
        if isinstance(source, str):
            return source
    return None


def _special_tokens(folder: Path) -> dict[str, str]:
    """The texts of the tokens that a template may name, such as `bos_token`."""
    files = ("special_tokens_map.json", "tokenizer_config.json")
    values = {k: v for name in files for k, v in _read_if_present(folder / name).items() if v}
    texts = {
        k: v["content"] if isinstance(v, dict) else v
        for k, v in values.items()
        if k.endswith("_token") and not k.startswith("add_")
    }
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _read_if_present(path: Path) -> dict[str, Any]:
    return read_object(path) if path.exists() else {}
