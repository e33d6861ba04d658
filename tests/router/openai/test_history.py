"""However a client writes a history, the template sees what transformers would show it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from router.errors import RouterError, ValidationError
from router.http.json_body import validate_body
from router.openai import history
from router.openai.request_models import ChatRequest
from router.text.chat_template import ChatTemplate
from router.text.job_errors import JobRejected
from tests.support.chat_templates import TEMPLATES
from tests.support.paths import ROOT

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
BUNDLED = ChatTemplate.load(str(ROOT / "shard" / "demo" / "target"))
assert BUNDLED is not None
LLAMA = (
    "{{- bos_token }}\n{%- for m in messages %}\n"
    "    {%- if m.role == 'tool' %}\n"
    "        {{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' }}\n"
    "        {{- m.content | tojson }}{{- '<|eot_id|>' }}\n"
    "    {%- elif 'tool_calls' in m %}\n"
    "        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n"
    "        {%- for call in m.tool_calls %}\n"
    '            {{- \'{"name": "\' + call.function.name + \'", "parameters": \' }}\n'
    "            {{- call.function.arguments | tojson }}{{- '}' }}\n        {%- endfor %}\n"
    "        {{- '<|eot_id|>' }}\n"
    "    {%- else %}\n"
    "        {{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' }}\n"
    "        {{- m.content | trim + '<|eot_id|>' }}\n    {%- endif %}\n{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n"
    "    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n{%- endif %}\n"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role in ('system', 'developer') %}"
    "[SYSTEM_PROMPT]{{ m.content }}[/SYSTEM_PROMPT]"
    "{% elif m.role == 'user' %}[INST]{{ m.content }}[/INST]"
    "{% elif m.role == 'tool' %}[TOOL_RESULTS]{{ m.tool_call_id }}|{{ m.content }}[/TOOL_RESULTS]"
    "{% else %}{% if m.reasoning_content is defined %}[THINK]{{ m.thinking }}[/THINK]{% endif %}"
    "{% if m.content is string %}{{ m.content }}{% endif %}"
    "{% if m.tool_calls is defined and m.tool_calls is not none %}"
    "{% if m.tool_calls | length == 0 %}{{ raise_exception('no calls') }}{% endif %}"
    "[TOOL_CALLS]{% for call in m.tool_calls %}{{ call.function.name }}[CALL_ID]{{ call.id }}[ARGS]"
    "{% for name, value in call.function.arguments.items() %}{{ name ~ '=' }}{{ value | tojson }};"
    "{% endfor %}{% endfor %}{% endif %}{{ eos_token }}{% endif %}{% endfor %}"
)
SOURCES = {
    "bundled": BUNDLED.source,
    "chatml": TEMPLATES["tools"],
    "plain chatml": TEMPLATES["chatml"],
    "llama": LLAMA,
    "mistral": MISTRAL,
}

TEXTS = st.text(st.sampled_from("ab {}<>|\"'\\\n\t\u00e9\u4e16\U0001f600\u2028"), max_size=12)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)
CALLS = st.builds(
    lambda name, arguments, number: {
        "id": f"call{number:05d}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    },
    st.sampled_from(["f", "get_weather"]),
    st.dictionaries(TEXTS, JSON_VALUES, max_size=2),
    st.integers(0, 99999),
)
REASONING: st.SearchStrategy[dict[str, str]] = st.just({}) | st.builds(
    lambda text: {"reasoning_content": text}, TEXTS
)
ANSWERS = st.builds(
    lambda text, reasoning: {"role": "assistant", "content": text, **reasoning}, TEXTS, REASONING
)
CALLING = st.builds(
    lambda text, calls, reasoning: {
        "role": "assistant",
        "content": text,
        "tool_calls": calls,
        **reasoning,
    },
    st.none() | TEXTS,
    st.lists(CALLS, min_size=1, max_size=2),
    REASONING,
)
USERS = st.builds(lambda text: {"role": "user", "content": text}, TEXTS)
RESULTS = st.builds(
    lambda text, number: {"role": "tool", "content": text, "tool_call_id": f"call{number:05d}"},
    TEXTS,
    st.integers(0, 99999),
)
HEADS = st.sampled_from(["system", "developer"]).flatmap(
    lambda role: st.lists(TEXTS.map(lambda text: {"role": role, "content": text}), max_size=1)
)
HISTORIES = st.builds(
    lambda head, turns: [*head, *turns],
    HEADS,
    st.lists(USERS | ANSWERS | CALLING | RESULTS, min_size=1, max_size=5),
)


def respell(draw: st.DrawFn, message: dict[str, Any]) -> dict[str, Any]:
    """Another way to write the same message."""
    spelled = {name: value for name, value in message.items() if name != "reasoning_content"}
    spelled["content"] = respell_content(draw, message)
    if spelled["content"] is None and draw(st.booleans()):
        del spelled["content"]
    if draw(st.booleans()):
        spelled["name"] = None
    if "reasoning_content" in message:
        name = draw(st.sampled_from(["reasoning", "reasoning_content"]))
        spelled[name] = message["reasoning_content"]
    if "tool_calls" in message:
        spelled["tool_calls"] = [respell_call(draw, call) for call in message["tool_calls"]]
    elif draw(st.booleans()):
        spelled["tool_calls"] = draw(st.sampled_from([None, []]))
    can_refuse = message["role"] == "assistant" and message["content"] is not None
    if can_refuse and draw(st.booleans()):
        spelled |= {"content": None, "refusal": message["content"]}
    return spelled


def respell_content(draw: st.DrawFn, message: dict[str, Any]) -> Any:
    text = message["content"]
    if text is None or draw(st.booleans()):
        return text
    cut = draw(st.integers(0, len(text)))
    kinds = ["text", "input_text", "output_text", "refusal"]
    parts = [(draw(st.sampled_from(kinds)), part) for part in (text[:cut], text[cut:])]
    return [{"type": kind, kind if kind == "refusal" else "text": part} for kind, part in parts]


def respell_call(draw: st.DrawFn, call: dict[str, Any]) -> dict[str, Any]:
    arguments = call["function"]["arguments"]
    name = draw(st.sampled_from(["arguments", "parameters"]))
    indent = draw(st.sampled_from([None, 2]))
    spellings = [arguments, json.dumps(arguments, indent=indent, ensure_ascii=False)]
    spellings += [] if arguments else ["", " \n", None, "null"]
    function = {"name": call["function"]["name"], name: draw(st.sampled_from(spellings))}
    if not arguments and draw(st.booleans()):
        del function[name]
    return {**call, "function": function}


@st.composite
def spelled_histories(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A history as transformers expects it, and as a client wrote it."""
    messages = draw(HISTORIES)
    return messages, [respell(draw, message) for message in messages]


def ours(source: str, messages: list[dict[str, Any]]) -> str | None:
    """Our prompt; None where the template refuses."""
    template = ChatTemplate(source, TOKENS)
    body = validate_body({"messages": messages}, ChatRequest)
    normalized = history.template_messages(
        body.messages,
        reads_calls=template.uses_variable("tool_calls"),
        reads_developer=template.uses_variable("developer"),
    )
    with_names = [history.with_reasoning_names(message) for message in normalized]
    try:
        return template.render(json.loads(json.dumps(with_names)))
    except JobRejected:
        return None


def theirs(source: str, messages: list[dict[str, Any]]) -> str | None:
    """The prompt by transformers; None where the template refuses."""
    last = messages[-1]
    continued = last["role"] == "assistant" and bool(last["content"]) and "tool_calls" not in last
    render: Any = render_jinja_template  # annotated as the text alone, returns a pair
    try:
        [text], _ = render(
            [messages],
            chat_template=source,
            continue_final_message=continued,
            add_generation_prompt=not continued,
            **TOKENS,
        )
    except Exception:  # noqa: BLE001 - whatever it raises, it refuses
        return None
    return str(text)


@pytest.mark.parametrize("name", SOURCES)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)  # timing is not asserted
@given(histories=spelled_histories())
def test_every_spelling_of_a_history_renders_as_transformers_renders_it(
    name: str, histories: tuple[list[dict[str, Any]], list[dict[str, Any]]]
) -> None:
    canonical, spelled = histories
    source = SOURCES[name]
    for message in canonical:
        if message["role"] == "developer" and "developer" not in source:
            message["role"] = "system"
        if message["content"] is None and "tool_calls" not in source:
            message["content"] = ""
    assert ours(source, spelled) == theirs(source, canonical)


def normalize(*messages: dict[str, Any], reads_calls: bool = True) -> list[dict[str, Any]]:
    body = validate_body({"messages": list(messages)}, ChatRequest)
    return history.template_messages(body.messages, reads_calls=reads_calls, reads_developer=True)


@pytest.mark.parametrize("role", ["banana", "", "User", " user", "ASSISTANT", "model", "bot", "\n"])
def test_an_unknown_role_is_refused_with_its_path(role: str) -> None:
    user = {"role": "user", "content": "a"}
    with pytest.raises(ValidationError, match=r"`messages\.1\.role` must be one of `system`, "):
        normalize(user, {"role": role, "content": "a"})


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant"])
def test_openais_roles_are_kept(role: str) -> None:
    assert normalize({"role": role, "content": "a"}) == [{"role": role, "content": "a"}]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"city": "Pa', "is not valid JSON"),
        ("{", "is not valid JSON"),
        ('{"a": 1}}', "is not valid JSON"),
        ("city=Paris", "is not valid JSON"),
        ('{"a": NaN}', "is not valid JSON"),
        ("[1]", "must be a JSON object"),
        ('"{}"', "must be a JSON object"),
        ("5", "must be a JSON object"),
        ("false", "must be a JSON object"),
        ([], "must be a JSON object"),
        (0, "must be a JSON object"),
    ],
)
def test_arguments_that_are_no_object_are_refused_with_their_path(
    arguments: Any, text: str
) -> None:
    calls = [
        {"id": "a", "function": {"name": "f", "arguments": "{}"}},
        {"id": "b", "function": {"name": "f", "arguments": arguments}},
    ]
    path = "`messages.0.tool_calls.1.function.arguments`"
    with pytest.raises(RouterError) as caught:
        normalize({"role": "assistant", "tool_calls": calls})
    assert f"{path} {text}" in str(caught.value)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            "`messages.0.content.0`: image modality is not supported",
        ),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "input_audio"}]},
            "`messages.0.content.1`: `input_audio` is not supported as a part of a message",
        ),
        (
            {"role": "user", "content": [{"type": "text"}]},
            "`messages.0.content.0.text` is required",
        ),
        (
            {"role": "assistant", "content": [{"type": "refusal", "text": "No."}]},
            "`messages.0.content.0.refusal` is required",
        ),
        (
            {"role": "user", "content": "a", "tool_calls": [{"function": {"name": "f"}}]},
            "`messages.0.tool_calls` needs the role `assistant`",
        ),
        (
            {"role": "user", "content": "a", "function_call": {"name": "f"}},
            "`messages.0.function_call` needs the role `assistant`",
        ),
        (
            {"role": "assistant", "function_call": {"name": "f", "arguments": '{"a'}},
            "`messages.0.function_call.arguments` is not valid JSON",
        ),
    ],
    ids=str,
)
def test_what_a_message_may_not_hold_is_refused_with_its_path(
    message: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        normalize(message)
    assert text in str(caught.value)


def test_a_function_call_and_its_result_become_a_tool_call_and_its_result() -> None:
    assert normalize(
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": ""}},
        {"role": "function", "name": "f", "content": "3"},
        {"role": "assistant", "function_call": {"name": "g", "arguments": '{"x": 1}'}},
        {"role": "function", "name": "g", "content": "4"},
    ) == [
        called("call00001", "f", {}),
        {"role": "tool", "content": "3", "name": "f", "tool_call_id": "call00001"},
        called("call00002", "g", {"x": 1}),
        {"role": "tool", "content": "4", "name": "g", "tool_call_id": "call00002"},
    ]


def called(id: str, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    call = {"id": id, "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def test_absent_content_is_none_only_together_with_calls_that_the_template_reads() -> None:
    call = {"id": "a", "function": {"name": "f"}}
    messages: list[dict[str, Any]] = [
        {"role": "assistant", "tool_calls": [call]},
        {"role": "assistant", "tool_calls": []},
        {"role": "tool", "content": None},
    ]
    assert [message["content"] for message in normalize(*messages)] == [None, "", ""]
    without = normalize(*messages, reads_calls=False)
    assert [message["content"] for message in without] == ["", "", ""]
