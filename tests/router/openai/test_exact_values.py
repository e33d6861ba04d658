"""Numbers of any size keep their value, and values that are nested too deep are refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.serving import serving

SHOW = (
    "{% for m in messages %}{{ m.content or '' }}{% for c in m.tool_calls or [] %}"
    "{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}"
    "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}"
)
HUGE = '{"n": 123456789012345678901234567890, "x": [1e400, -1E+999], "f": 0.1000, "s": "1e400"}'
KEPT = '{"n": 123456789012345678901234567890, "x": [1e400, -1E+999], "f": 0.1, "s": "1e400"}'
USER = '{"role": "user", "content": "a"}'
FUNCTION = '{"type": "function", "function": {"name": "f", "parameters": %s}}'


def deep(levels: int) -> str:
    return '{"a":' * levels + "0" + "}" * levels


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def chat(fields: str = "", call: str = "") -> str:
    calls = f', {{"role": "assistant", "tool_calls": [{call}]}}, {USER}' if call else ""
    return f'{{"messages": [{USER}{calls}]{fields}}}'


def call(arguments: str) -> str:
    return f'{{"function": {{"name": "f", "arguments": {arguments}}}}}'


async def post(path: str, body: str, template: str = SHOW) -> tuple[int, str, list[str]]:
    """Status, error and the prompts of `body`, which is sent as it is."""
    headers = {"content-type": "application/json"}
    async with serving(template=template) as server:
        answer = await server.request("POST", path, data=body.encode(), headers=headers)
        prompts = [request.inputs for request, _ in server.dispatcher.opened]
    value = answer.json()
    error = value.get("error", "") if isinstance(value, dict) else ""
    return answer.status, error["message"] if isinstance(error, dict) else error, prompts


@pytest.mark.parametrize("arguments", [HUGE, quoted(HUGE)], ids=["object", "text"])
async def test_arguments_of_earlier_calls_reach_the_template_with_their_numbers(
    arguments: str,
) -> None:
    status, _, [prompt] = await post("/v1/chat/completions", chat(call=call(arguments)))
    assert status == 200
    assert prompt == f"a{KEPT}a"


async def test_schemas_of_tools_reach_the_template_with_their_numbers() -> None:
    schema = '{"properties": {"n": {"maximum": 36893488147419103232, "default": 1e400}}}'
    for template in (SHOW, "{{ messages[-1].content }}"):
        body = chat(f', "tools": [{FUNCTION % schema}], "tool_prompt": ""')
        status, _, [prompt] = await post("/v1/chat/completions", body, template)
        assert status == 200
        assert schema.replace(" ", "") in prompt.replace(" ", "")


async def test_tools_of_a_response_are_returned_with_their_numbers() -> None:
    schema = '{"properties":{"n":{"maximum":36893488147419103232,"default":1e400}}}'
    tool = f'{{"type": "function", "name": "f", "parameters": {schema}}}'
    async with serving(template=SHOW) as server:
        for stream in ("true", "false"):
            body = f'{{"input": "a", "tools": [{tool}], "stream": {stream}}}'
            answer = await server.request(
                "POST", "/v1/responses", data=body, headers={"content-type": "application/json"}
            )
            assert answer.status == 200
            assert f'"parameters":{schema}' in answer.body.decode()


LARGEST = 2**53
NUMBERS = ["1234567890123456789", "9007199254740993", "1e400", "1e23", "0.12345678901234567891"]
SCHEMAS = ['{"const": %s}', '{"enum": ["a", {"b": [%s]}]}', '{"items": {"minimum": %s}}']


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("schema", SCHEMAS)
async def test_a_grammar_with_a_number_that_would_change_is_refused(
    number: str, schema: str
) -> None:
    wanted = schema % number
    format = f'{{"type": "json_schema", "json_schema": {{"schema": {wanted}}}}}'
    properties = f'{{"properties": {{"const": {wanted}}}}}'
    native = f'{{"grammar": {{"type": "json", "value": {properties}}}}}'
    required = f', "tools": [{FUNCTION % properties}], "tool_choice": "required"'
    async with serving(template=SHOW) as server:
        for path, body in (
            ("/v1/chat/completions", chat(f', "response_format": {format}')),
            ("/v1/chat/completions", chat(required)),
            ("/generate", f'{{"inputs": "a", "parameters": {native}}}'),
        ):
            answer = await server.request(
                "POST", path, data=body, headers={"content-type": "application/json"}
            )
            assert answer.status == 422
            assert "has a number that 64-bit floats cannot hold: " in answer.body.decode()
        assert not server.dispatcher.opened


@pytest.mark.parametrize(
    "schema",
    [
        f'{{"const": {LARGEST}}}',
        '{"enum": [0.1, 1e22, -5, 1.50, 1152921504606846976]}',
        '{"const": 10000000000000000000000}',
        '{"type": "integer", "default": 1234567890123456789, "examples": [9007199254740993]}',
        '{"properties": {"const": {"description": "x"}, "enum": {"type": "string"}}}',
    ],
)
async def test_a_grammar_whose_numbers_floats_hold_is_served(schema: str) -> None:
    format = f'{{"type": "json_schema", "json_schema": {{"schema": {schema}}}}}'
    status, error, _ = await post("/v1/chat/completions", chat(f', "response_format": {format}'))
    assert (status, error) == (200, "")


def places(value: str) -> dict[str, tuple[str, str]]:
    """The field, the path and the body of every place where a client may nest."""
    schema = f'{{"type": "json_schema", "json_schema": {{"schema": {value}}}}}'
    flat = f'{{"type": "function", "name": "f", "parameters": {value}}}'
    item = f'{{"type": "function_call", "call_id": "c", "name": "f", "arguments": {quoted(value)}}}'
    grammar = f'{{"type": "json", "value": {{"properties": {{"a": {value}}}}}}}'
    chats, answers = "/v1/chat/completions", "/v1/responses"
    return {
        "response_format.json_schema.schema": (chats, chat(f', "response_format": {schema}')),
        "tools.0.function.parameters": (chats, chat(f', "tools": [{FUNCTION % value}]')),
        "messages.1.tool_calls.0.function.arguments": (chats, chat(call=call(value))),
        "messages.1.tool_calls.0.function.arguments ": (chats, chat(call=call(quoted(value)))),
        "unknown": (chats, chat(f', "unknown": {value}')),
        "messages": ("/chat_tokenize", f'{{"messages": {value}}}'),
        "text.format.schema": (
            answers,
            f'{{"input": "a", "text": {{"format": {{"type": "json_schema", "schema": {value}}}}}}}',
        ),
        "tools.0.parameters": (answers, f'{{"input": "a", "tools": [{flat}]}}'),
        "input.0.arguments": (answers, f'{{"input": [{item}]}}'),
        "parameters.grammar.value": (
            "/generate",
            f'{{"inputs": "a", "parameters": {{"grammar": {grammar}}}}}',
        ),
        "inputs": ("/invocations", f'{{"inputs": {value}}}'),
        "instances.0": ("/vertex", f'{{"instances": [{value}]}}'),
        "prompt": ("/v1/completions", f'{{"prompt": {value}}}'),
    }


@pytest.mark.parametrize("levels", [127, 128, 200])
async def test_what_is_nested_too_deep_is_refused_with_its_field(levels: int) -> None:
    for open_object in (True, False):
        value = deep(levels) if open_object else "[" * levels + "]" * levels
        async with serving(template=SHOW) as server:
            for field, (path, body) in places(value).items():
                answer = await server.request(
                    "POST", path, data=body, headers={"content-type": "application/json"}
                )
                assert answer.status == 422, (field, answer.body)
                assert "nested more than 100 levels deep" in answer.body.decode()
                assert f"target type: {field.strip()}" in answer.body.decode()


async def test_text_that_holds_a_schema_is_bounded_too() -> None:
    value = quoted(f'{{"properties": {deep(120)}}}')
    grammar: Any = f'{{"grammar": {{"type": "json", "value": {value}}}}}'
    status, error, _ = await post("/generate", f'{{"inputs": "a", "parameters": {grammar}}}')
    assert status == 422
    assert error.endswith("grammar is not valid: nested more than 100 levels deep")


async def test_everything_within_the_bound_is_answered_without_a_failure() -> None:
    async with serving(template=SHOW) as server:
        for levels in (60, 80, 92):
            for path, body in places(deep(levels)).values():
                answer = await server.request(
                    "POST", path, data=body, headers={"content-type": "application/json"}
                )
                assert answer.status in (200, 400, 422), (path, body, answer.body)
                assert "nested" not in answer.body.decode()


async def test_a_forced_call_of_a_function_without_parameters_has_no_arguments() -> None:
    tools = ', "tools": [{"type": "function", "function": {"name": "now"}}]'
    async with serving(template=SHOW) as server:
        body = chat(f'{tools}, "tool_choice": "required"')
        await server.request(
            "POST",
            "/v1/chat/completions",
            data=body,
            headers={"content-type": "application/json"},
        )
        [(request, _)] = server.dispatcher.opened
        assert request.grammar is not None
        assert '"properties":{},"additionalProperties":false' in request.grammar
