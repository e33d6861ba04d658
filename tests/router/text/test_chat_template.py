"""Chat templates render as transformers renders them, and reach nothing that they should not."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from router.text.chat_template import ChatTemplate
from router.text.job_errors import JobRejected
from tests.support.chat_templates import TEMPLATES

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
USER = {"role": "user", "content": " What is 2 < 3 & «é»? "}
ANSWER = {"role": "assistant", "content": "It is true."}
SYSTEM = {"role": "system", "content": "Be brief."}
CALL = {"function": {"name": "f", "arguments": {"x": 1, "y": "é"}}, "id": "c1", "type": "function"}
CHATS: dict[str, list[dict[str, Any]]] = {
    "one": [USER],
    "system": [SYSTEM, USER],
    "turns": [USER, ANSWER, USER],
    "long": [SYSTEM, USER, ANSWER, USER, ANSWER, USER],
    "open": [USER, ANSWER],
    "called": [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "3", "tool_call_id": "c1"},
    ],
}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def theirs(source: str, chat: list[dict[str, Any]], **more: Any) -> str | None:
    """The prompt by transformers; None where the template refuses."""
    goes_on = chat[-1]["role"] == "assistant"
    ending = {"continue_final_message": goes_on, "add_generation_prompt": not goes_on}
    render: Any = render_jinja_template  # annotated as the text alone, returns a pair
    try:
        [text], _ = render(
            [chat],
            chat_template=source,
            **{**ending, **TOKENS, **more},
        )
    except Exception:  # noqa: BLE001 - whatever it raises, it refuses
        return None
    return str(text)


def ours(source: str, chat: list[dict[str, Any]], **more: Any) -> str | None:
    try:
        return ChatTemplate(source, TOKENS).render(chat, **more)
    except JobRejected:
        return None


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_renders_as_transformers_renders_it(name: str, chat: str) -> None:
    source, messages = TEMPLATES[name], CHATS[chat]
    for more in ({}, {"tools": [TOOL]}, {"enable_thinking": False}):
        assert ours(source, messages, **more) == theirs(source, messages, **more)


def test_known_prompts_have_their_published_text() -> None:
    chat = CHATS["turns"]
    assert ours(TEMPLATES["chatml"], [SYSTEM, ANSWER, USER]) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>assistant\nIt is true.<|im_end|>\n"
        "<|im_start|>user\n What is 2 < 3 & «é»? <|im_end|>\n<|im_start|>assistant\n"
    )
    assert ours(TEMPLATES["inst"], chat) == (
        "<s>[INST] What is 2 < 3 & «é»? [/INST] It is true. </s>[INST] What is 2 < 3 & «é»? [/INST]"
    )
    assert ours(TEMPLATES["turns"], [USER]) == (
        "<s><start_of_turn>user\nWhat is 2 < 3 & «é»?<end_of_turn>\n<start_of_turn>model\n"
    )


def test_the_model_continues_a_last_message_of_the_assistant() -> None:
    chat = [USER, {"role": "assistant", "content": "It is "}]
    assert ours(TEMPLATES["headers"], chat) == (
        "<s><|start_header_id|>user<|end_header_id|>\n\nWhat is 2 < 3 & «é»?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nIt is"
    )


@pytest.mark.parametrize("end", ["\n", " ", "\n\n", "\t\n ", ":\n", "\u00a0"])
def test_white_space_at_the_end_of_a_continued_message_is_kept(end: str) -> None:
    chat = [USER, {"role": "assistant", "content": f"It is{end}"}]
    kept = ours(TEMPLATES["chatml"], chat)
    assert kept == theirs(TEMPLATES["chatml"], chat)
    assert kept is not None
    assert kept.endswith(f"<|im_start|>assistant\nIt is{end}")
    assert ours(TEMPLATES["headers"], chat) == theirs(TEMPLATES["headers"], chat)


@pytest.mark.parametrize("name", ["chatml", "headers", "turns", "begun", "tools"])
def test_the_end_of_the_prompt_can_be_chosen(name: str) -> None:
    source, chat = TEMPLATES[name], CHATS["open"]
    for ends, continued in ((True, False), (False, False), (False, True)):
        chosen = {"add_generation_prompt": ends, "continue_final_message": continued}
        for messages in (chat, CHATS["one"], CHATS["system"]):
            assert ours(source, messages, **chosen) == theirs(source, messages, **chosen)


def test_a_prompt_is_not_continued_where_another_message_is_requested() -> None:
    source, chat = TEMPLATES["chatml"], CHATS["open"]
    closed = ours(source, chat, continue_final_message=False)
    assert closed == ours(source, chat, add_generation_prompt=True)
    assert closed is not None
    assert closed.endswith("It is true.<|im_end|>\n<|im_start|>assistant\n")


def test_a_message_with_calls_is_not_continued() -> None:
    chat: list[dict[str, Any]] = [
        USER,
        {"role": "assistant", "content": "Wait.", "tool_calls": [CALL]},
    ]
    text = ours(TEMPLATES["tools"], chat)
    assert text is not None
    assert text.endswith("</tool_call><|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize(
    "expression",
    [
        "{{ a }}",
        "{{ a | tojson }}",
        "{{ '' ~ a }}",
        "{{ '' + a }}",
        "{{ a + '' }}",
        "{{ a | string }}",
        "{{ a if a is string else a | tojson }}",
        "{% if a is mapping %}{{ a | tojson }}{% endif %}",
    ],
)
def test_arguments_are_a_mapping_and_json_text(expression: str) -> None:
    source = "{% set a = messages[0].tool_calls[0].function.arguments %}" + expression
    chat = [{"role": "assistant", "content": "", "tool_calls": [CALL]}]
    assert ours(source, chat) == '{"x": 1, "y": "é"}'
    source = "{% for key, value in messages[0].tool_calls[0].function.arguments.items() %}"
    assert ours(source + "{{ key }}={{ value }} {% endfor %}", chat) == "x=1 y=é "


def test_an_error_that_a_template_raises_keeps_its_text() -> None:
    with pytest.raises(JobRejected, match=r"^Conversation roles must alternate$"):
        ChatTemplate(TEMPLATES["inst"], TOKENS).render([ANSWER, USER])


def test_a_missing_variable_is_named() -> None:
    with pytest.raises(JobRejected) as caught:
        ChatTemplate("{{ persona.name }}", {}).render([USER])
    assert caught.value.missing_variable == "persona"


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append({}) }}",
        "{% set _ = messages[0].update({'role': 'x'}) %}",
        "{{ namespace(__class__=1) }}",
        "{% set ns = namespace() %}{% set ns.__dict__ = 1 %}",
        "{{ dict.__init__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ lipsum.__globals__['os'] }}",
        "{{ '%c' % 1e9 }}",
        "{% include 'config.json' %}",
        "{% for i in range(999999) %}{% endfor %}",
        "{{ messages | map('nonsense') | list }}",
        "{{ ('a' * 3)('b') }}",
    ],
)
def test_a_template_cannot_reach_outside_the_sandbox(source: str) -> None:
    chat = [dict(USER)]
    with suppress(JobRejected):
        assert ChatTemplate(source, TOKENS).render(chat).strip() == ""
    assert chat == [USER]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def test_the_places_of_a_template_have_an_order(folder: Path) -> None:
    assert ChatTemplate.load(str(folder)) is None
    config: dict[str, Any] = {"bos_token": {"content": "<b>", "lstrip": False}, "eos_token": None}
    config["chat_template"] = "c {{ bos_token }}{{ eos_token }}"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert loaded(folder).render([USER]) == "c <b>"
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "j"}))
    assert loaded(folder).render([USER]) == "j"
    (folder / "chat_template.jinja").write_text("f {{ bos_token }}")
    assert loaded(folder).render([USER]) == "f <b>"
    other = folder / "other.json"
    other.write_text(json.dumps({"chat_template": "o"}))
    chosen = ChatTemplate.load(str(folder), str(other))
    assert chosen
    assert chosen.render([USER]) == "o"


def test_the_default_of_several_named_templates_is_used(folder: Path) -> None:
    named = [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert loaded(folder).source == "d"


def test_a_template_that_does_not_parse_is_refused_with_the_line(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("one\n{% if %}")
    with pytest.raises(ValueError, match="chat template, line 2: "):
        ChatTemplate.load(str(folder))


def loaded(folder: Path) -> ChatTemplate:
    template = ChatTemplate.load(str(folder))
    assert template
    return template


@pytest.mark.parametrize(
    ("config", "tokens_map", "expected"),
    [
        (None, {"bos_token": "<s>", "eos_token": "</s>"}, "<s>|</s>"),
        ({}, {"bos_token": {"content": "<s>", "lstrip": False}, "eos_token": "</s>"}, "<s>|</s>"),
        ({"bos_token": "<b>"}, {"bos_token": "<s>", "eos_token": "</s>"}, "<b>|</s>"),
        ({"bos_token": None}, {"bos_token": "<s>"}, "<s>|"),
        ({"bos_token": "<s>", "eos_token": "</s>"}, None, "<s>|</s>"),
        ({"bos_token": "<s>"}, {"additional_special_tokens": ["<x>"]}, "<s>|"),
    ],
)
def test_special_tokens_come_from_the_configuration_or_else_from_the_special_tokens_map(
    tmp_path: Path, config: Any, tokens_map: Any, expected: str
) -> None:
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}|{{ eos_token }}")
    for name, value in (("tokenizer_config", config), ("special_tokens_map", tokens_map)):
        if value is not None:
            (tmp_path / f"{name}.json").write_text(json.dumps(value))
    template = ChatTemplate.load(str(tmp_path))
    assert template is not None
    assert template.render([USER]) == expected
