"""Fields that change what a request means and are not supported: which, and their refusal by name.

Other unknown fields are ignored. The names are OpenAI's, vLLM's, TGI's and llama.cpp's; a value
that changes nothing is accepted. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import model_validator

from router.http.json_body import Body
from router.requests.rules import require


@dataclass(frozen=True, slots=True)
class UnsupportedField:
    """What is allowed of a field, besides null, and what to do instead of setting it."""

    neutral: tuple[Any, ...] = ()
    """Values that change nothing."""
    instead: str = ""


_USE_RESPONSE_FORMAT = "use `response_format`"
_NOT_STORED = "responses are not stored"
_GENERATION: Mapping[str, UnsupportedField] = {
    "allowed_token_ids": UnsupportedField(([],), "use `logit_bias`"),
    "bad_words": UnsupportedField(([],), "use `logit_bias`"),
    "include_stop_str_in_output": UnsupportedField((False,)),
    "length_penalty": UnsupportedField((1,)),
    "prompt_logprobs": UnsupportedField((), "use `echo` and `logprobs` of `/v1/completions`"),
    "return_token_ids": UnsupportedField((False,)),
    "return_tokens_as_token_ids": UnsupportedField((False,)),
    "skip_special_tokens": UnsupportedField((True,)),
    "stop_token_ids": UnsupportedField(([],), "use `stop`"),
    "truncate_prompt_tokens": UnsupportedField(),
    "typical_p": UnsupportedField((1,), "use `/generate`"),
    "use_beam_search": UnsupportedField((False,)),
    "watermark": UnsupportedField((False,), "use `/generate`"),
}
_GRAMMARS = (
    "grammar",
    "guided_choice",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "json_schema",
    "structural_tag",
    "structured_outputs",
)
CHAT_FIELDS: Mapping[str, UnsupportedField] = {
    **_GENERATION,
    **dict.fromkeys(_GRAMMARS, UnsupportedField(("", {}), _USE_RESPONSE_FORMAT)),
    "add_special_tokens": UnsupportedField((False,)),
    "audio": UnsupportedField(),
    "best_of": UnsupportedField((1,)),
    "chat_template": UnsupportedField((), "the server uses the model's template"),
    "documents": UnsupportedField(([],)),
    "echo": UnsupportedField((False,)),
    "function_call": UnsupportedField(("none", "auto"), "use `tool_choice`"),
    "functions": UnsupportedField(([],), "use `tools`"),
    "modalities": UnsupportedField((["text"], [])),
    "verbosity": UnsupportedField(("medium",)),
    "web_search_options": UnsupportedField(),
}
COMPLETION_FIELDS: Mapping[str, UnsupportedField] = {
    **_GENERATION,
    **dict.fromkeys(_GRAMMARS, UnsupportedField(("", {}), "use `/generate` with `grammar`")),
    "add_special_tokens": UnsupportedField((True,)),
    "response_format": UnsupportedField(({"type": "text"},), "use `/v1/chat/completions`"),
}
RESPONSES_FIELDS: Mapping[str, UnsupportedField] = {
    "context_management": UnsupportedField(([],)),
    "conversation": UnsupportedField((), _NOT_STORED),
    "modalities": UnsupportedField((["text"], [])),
    "prompt": UnsupportedField((), _NOT_STORED),
    "truncation": UnsupportedField(("disabled",), "shorten `input`"),
}


class RefusesFields(Body):
    """A body that refuses the fields in `unsupported_fields` by name."""

    unsupported_fields: ClassVar[Mapping[str, UnsupportedField]] = {}

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, value: Any) -> Any:
        if isinstance(value, dict):
            check_supported(value, cls.unsupported_fields)
        return value


def check_supported(body: Mapping[str, Any], fields: Mapping[str, UnsupportedField]) -> None:
    """Raise ValidationError for the first of `fields` that has an effect in `body`."""
    for name, field in fields.items():
        value = body.get(name)
        hint = f": {field.instead}" if field.instead else ""
        require(value is None or value in field.neutral, f"`{name}` is not supported{hint}")
