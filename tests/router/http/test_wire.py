"""What goes over the wire, byte for byte: a transcript of each route and of each error.

A file under tests/golden/wire is the request as it is sent and the response as it comes, but for
the value of `Date`. `--update-golden` rewrites everything.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import pytest

from router.errors import (
    AdapterNotFound,
    Cancelled,
    EngineFault,
    GenerationFailed,
    IncompleteGeneration,
    Overloaded,
    RouterError,
    Unavailable,
    ValidationError,
)
from router.http.access import AccessPolicy
from router.http.gateway import Timeouts
from router.requests.request import Request
from router.scheduler.api import RequestStatus
from shard.wire.protocol import Sampling, TopTokens
from tests.support.serving import (
    DRAFTING_SERVER_INFO,
    HELLO,
    SERVER_INFO,
    TIMEOUTS,
    RunningServer,
    ScriptedDispatcher,
    ScriptedRecord,
    Token,
    serving,
)

KEY = AccessPolicy(api_keys=("secret",))
LINE = "=" * 30
JSON = "application/json"


@dataclass(frozen=True)
class Call:
    """A request to a server of some kind."""

    method: str
    path: str
    body: str | None = None
    kind: str = JSON
    head: dict[str, str] = field(default_factory=dict)
    server: dict[str, Any] = field(default_factory=dict)
    """Arguments of `serving`, the dispatcher made by a function."""

    def bytes(self) -> tuple[str, bytes]:
        body = (self.body or "").encode()
        head = {"Host": "server", "Connection": "close", "x-request-id": "golden"}
        if self.body is not None:
            head |= {"Content-Type": self.kind, "Content-Length": str(len(body))}
        lines = [f"{name}: {value}" for name, value in (head | self.head).items()]
        return "\n".join([f"{self.method} {self.path} HTTP/1.1", *lines]), body


def post(path: str, body: str = '{"inputs":"Say"}', **more: Any) -> Call:
    return Call("POST", path, body, **more)


def get(path: str, **more: Any) -> Call:
    return Call("GET", path, **more)


def ends(*script: Any, **more: Any) -> dict[str, Any]:
    """A server whose generations go so."""
    return {"dispatcher": lambda: ScriptedDispatcher(*script, **more)}


def waiting() -> ScriptedDispatcher:
    """A dispatcher with one request that waits."""
    dispatcher = ScriptedDispatcher()
    look = RequestStatus(2, False, 0.5, 1.25, 3.5, {"keep": 1, "swap": 0, "recompute": 0})
    dispatcher.known["mine"] = [(ScriptedRecord(Request("a", Sampling()), (), None), look)]
    return dispatcher


FULL = (
    '{"inputs":"Say","parameters":{"details":true,"decoder_input_details":true,'
    '"top_n_tokens":1,"do_sample":true,"seed":7}}'
)
TOP = (Token(15, " Hello", -0.25, top=TopTokens((15,), (-0.25,))),)
CHAT = '{"messages":[{"role":"user","content":"Say"}]}'
STREAMED = CHAT.replace("}]", '}],"stream":true,"stream_options":{"include_usage":true}')
TOOLS = CHAT.replace("}]", '}],"tools":[{"type":"function","function":{"name":"f"}}]')
CALLING = (Token(3, '{"name": "f", ', -0.5), Token(4, '"arguments": {}}', -0.5), HELLO[-1])
GREEDY = '{"inputs":"Say","parameters":{}}'
FIRST = HELLO[0]
ASKED = '{"max_tokens":9,"messages":[{"role":"user","content":"Say"}]}'
ASKED_STREAM = ASKED.replace('"max_tokens":9', '"max_tokens":9,"stream":true')
ASKED_TOOLS = ASKED.replace("}]", '}],"tools":[{"name":"f","input_schema":{}}]')
CALLS = {
    "root": post("/", GREEDY),
    "root_stream": post("/", '{"inputs":"Say","stream":true,"parameters":{"details":true}}'),
    "generate": post("/generate", GREEDY),
    "generate_details": post(
        "/generate", FULL, server=ends(*TOP) | {"server_info": DRAFTING_SERVER_INFO}
    ),
    "generate_best_of": post(
        "/generate",
        '{"inputs":"Say","parameters":{"best_of":2,"temperature":0.5,"details":true}}',
        server=ends(*HELLO, heads=((Token(1, "a", -9.0),), ())),
    ),
    "generate_stream": post("/generate_stream", GREEDY),
    "generate_stream_details": post(
        "/generate_stream",
        FULL.replace('"decoder_input_details":true,', ""),
        server=ends(*TOP) | {"server_info": DRAFTING_SERVER_INFO},
    ),
    "invocations": post("/invocations", GREEDY),
    "vertex": post("/vertex", '{"instances":[{"inputs":"Say"},{"inputs":"a"}]}'),
    "tokenize": post("/tokenize", '{"inputs":"the 世"}'),
    "info": get("/info"),
    "health": get("/health"),
    "ping": get("/ping"),
    "root_health": get("/"),
    "live": get("/health/live"),
    "ready": get("/health/ready"),
    "debug_state": get("/debug/state", server=ends(reason="draining")),
    "standing": get("/requests/mine", server={"dispatcher": waiting}),
    "cancel": Call("DELETE", "/requests/mine", server={"dispatcher": waiting}),
    "cancel_post": Call("POST", "/cancel/mine", server={"dispatcher": waiting}),
    "docs": get("/docs"),
    "preflight": Call(
        "OPTIONS",
        "/generate",
        head={"Origin": "https://a.example", "Access-Control-Request-Method": "POST"},
    ),
    "with_origin": get("/health", head={"Origin": "https://a.example"}),
    "metrics": get("/metrics"),
    "v1_models": get("/v1/models"),
    "v1_chat": post("/v1/chat/completions", CHAT),
    "v1_chat_logprobs": post(
        "/v1/chat/completions",
        CHAT.replace("}]", '}],"logprobs":true,"top_logprobs":1'),
        server=ends(*TOP) | {"server_info": DRAFTING_SERVER_INFO},
    ),
    "v1_chat_stream": post("/v1/chat/completions", STREAMED),
    "v1_completions": post("/v1/completions", '{"prompt":"Say"}'),
    "v1_completions_stream": post("/v1/completions", '{"prompt":"Say","stream":true}'),
    "v1_completions_echo": post(
        "/v1/completions", '{"prompt":[1,2,3],"echo":true,"logprobs":1,"max_tokens":0}'
    ),
    "v1_chat_tools": post("/v1/chat/completions", TOOLS, server=ends(*CALLING)),
    "v1_chat_tools_stream": post(
        "/v1/chat/completions", TOOLS.replace("}]", '}],"stream":true', 1), server=ends(*CALLING)
    ),
    "v1_responses": post("/v1/responses", '{"input":"Say"}'),
    "v1_responses_stream": post("/v1/responses", '{"input":"Say","stream":true}'),
    "v1_messages": post("/v1/messages", ASKED),
    "v1_messages_stream": post("/v1/messages", ASKED_STREAM),
    "v1_messages_tools": post("/v1/messages", ASKED_TOOLS, server=ends(*CALLING)),
    "v1_messages_tools_stream": post(
        "/v1/messages",
        ASKED_TOOLS.replace("}]", '}],"stream":true', 1),
        server=ends(*CALLING),
    ),
    "v1_messages_count_tokens": post(
        "/v1/messages/count_tokens", ASKED.replace('"max_tokens":9,', "")
    ),
    "v1_messages_401": post("/v1/messages", ASKED, server={"access": KEY}),
    "v1_messages_key": post(
        "/v1/messages", ASKED, head={"x-api-key": "secret"}, server={"access": KEY}
    ),
    "v1_messages_404": post("/v1/messages/batches", "{}"),
    "v1_messages_422": post("/v1/messages", ASKED.replace('"max_tokens":9,', "")),
    "v1_messages_424_stream": post(
        "/v1/messages", ASKED_STREAM, server=ends(FIRST, GenerationFailed("x"))
    ),
    "v1_messages_429": post("/v1/messages", ASKED, server=ends(full=True)),
    "invocations_chat": post("/invocations", CHAT),
    "invocations_completion": post("/invocations", '{"prompt":"Say"}'),
    "chat_tokenize": post("/chat_tokenize", CHAT),
    "v1_error_400": post("/v1/completions", "{"),
    "v1_error_401": post("/v1/completions", '{"prompt":"Say"}', server={"access": KEY}),
    "v1_error_405": get("/v1/completions"),
    "v1_error_408": Call(
        "POST",
        "/v1/completions",
        "",
        head={"Content-Length": "9"},
        server={"timeouts": Timeouts(body=0.01, linger=0.01)},
    ),
    "v1_error_413": post("/v1/completions", '{"prompt":"' + "a" * 2000 + '"}'),
    "v1_error_415": post("/v1/completions", kind="text/plain"),
    "v1_error_422": post("/v1/chat/completions", '{"messages":1}'),
    "v1_error_422_rule": post("/v1/chat/completions", CHAT.replace("}]", '}],"top_p":1.5')),
    "v1_error_422_no_template": post("/v1/chat/completions", CHAT, server={"template": ""}),
    "v1_error_422_template": post(
        "/v1/chat/completions", CHAT, server={"template": "{{ raise_exception('only systems') }}"}
    ),
    "v1_error_422_variable": post(
        "/v1/chat/completions", CHAT, server={"template": "{{ absent.name }}"}
    ),
    "v1_error_422_tool": post(
        "/v1/chat/completions", TOOLS.replace("}]", '}],"tool_choice":"g"', 1)
    ),
    "v1_error_422_exclusive": post(
        "/v1/chat/completions",
        TOOLS.replace("}]", '}],"response_format":{"type":"json_object"}', 1),
    ),
    "v1_error_422_suffix": post("/v1/completions", '{"prompt":"Say","suffix":"x"}'),
    "v1_error_422_prompts": post("/v1/completions", '{"prompt":["a","b","c","d","e"]}'),
    "v1_error_422_empty": post("/v1/completions", '{"prompt":[]}'),
    "v1_error_424": post("/v1/chat/completions", CHAT, server=ends(FIRST, GenerationFailed("x"))),
    "v1_error_424_stream": post(
        "/v1/chat/completions", STREAMED, server=ends(FIRST, GenerationFailed("x"))
    ),
    "v1_error_429": post("/v1/completions", '{"prompt":"Say"}', server=ends(full=True)),
    "v1_error_499": post("/v1/chat/completions", CHAT, server=ends(FIRST, Cancelled())),
    "v1_error_499_stream": post("/v1/chat/completions", STREAMED, server=ends(FIRST, Cancelled())),
    "v1_error_500": post("/v1/completions", '{"prompt":"Say"}', server=ends(FIRST, ending=None)),
    "v1_error_500_stream": post("/v1/chat/completions", STREAMED, server=ends(FIRST, ending=None)),
    "v1_error_503": post("/v1/completions", '{"prompt":"Say"}', server=ends(reason="draining")),
    "v1_error_responses_stream": post(
        "/v1/responses", '{"input":"Say","stream":true}', server=ends(FIRST, GenerationFailed("x"))
    ),
    "error_400_json": post("/generate", '{"inputs":'),
    "error_400_gzip": post("/generate", head={"Content-Encoding": "gzip"}),
    "error_404_model": get("/v1/models/another"),
    "error_414": get("/health?" + "a" * 8200),
    "error_415_coding": post("/generate", head={"Content-Encoding": "zstd"}),
    "error_417": post("/generate", head={"Expect": "junk"}),
    "error_431": get("/health", head={"X": "a" * 8200}),
    "v1_model": get("/v1/models/bigscience/bloom-560m"),
    "error_400_surrogate": post("/generate", '{"inputs":"\\ud800"}'),
    "error_400_http": Call("GET", "/health", head={"Content-Length": "x"}),
    "error_401": post("/generate", server={"access": KEY}),
    "error_401_key": post(
        "/generate", head={"Authorization": "Bearer other"}, server={"access": KEY}
    ),
    "error_404": post("/nowhere"),
    "error_404_v1": post("/v1/nowhere"),
    "error_404_request": get("/requests/another", server={"dispatcher": waiting}),
    "error_405": get("/generate"),
    "error_405_v1_form": Call("PUT", "/info"),
    "error_408": Call(
        "POST",
        "/generate",
        "",
        head={"Content-Length": "9"},
        server={"timeouts": Timeouts(body=0.01, linger=0.01)},
    ),
    "error_413": post("/generate", '{"inputs":"' + "a" * 2000 + '"}'),
    "error_415": post("/generate", kind="text/plain"),
    "error_422_type": post("/generate", '{"inputs":"a","parameters":{"top_k":1.5}}'),
    "error_422_missing": post("/generate", "{}"),
    "error_422_rule": post("/generate", '{"inputs":"a","parameters":{"temperature":0}}'),
    "error_422_stream": post("/generate_stream", '{"inputs":""}'),
    "error_422_count": post("/generate_stream", '{"inputs":"a","parameters":{"best_of":2}}'),
    "error_422_vertex": post("/vertex", '{"instances":[]}'),
    "error_422_invocations": post("/invocations", "{}"),
    "error_422_invocations_chat": post("/invocations", '{"messages":1}'),
    "error_422_grammar": post(
        "/generate", '{"inputs":"a","parameters":{"grammar":{"type":"json","value":{}}}}'
    ),
    "error_422_template": post("/chat_tokenize", CHAT, server={"template": ""}),
    "error_422_length": post("/generate", server=ends(refusal=ValidationError("`inputs` ..."))),
    "error_500_engine_fault": post("/generate", server=ends(FIRST, EngineFault())),
    "error_424": post("/generate", server=ends(FIRST, GenerationFailed("x"))),
    "error_424_stream": post("/generate_stream", server=ends(FIRST, GenerationFailed("x"))),
    "error_429": post("/generate", server=ends(refusal=Overloaded())),
    "error_429_stream": post("/generate_stream", server=ends(full=True)),
    "error_499": post("/generate", server=ends(FIRST, Cancelled())),
    "error_499_stream": post("/generate_stream", server=ends(FIRST, Cancelled())),
    "error_500": post("/generate", server=ends(FIRST, ending=None)),
    "error_500_stream": post("/generate_stream", server=ends(FIRST, ending=None)),
    "error_500_nan_stream": post("/generate_stream", server=ends(Token(1, "a", float("nan")))),
    "error_500_vertex": post(
        "/vertex", '{"instances":[{"inputs":"a"}]}', server=ends(FIRST, IncompleteGeneration())
    ),
    "error_503_draining": post("/generate", server=ends(reason="draining")),
    "error_503_failed": post("/generate_stream", server=ends(reason="failed")),
    "error_503_lost": post("/generate", server=ends(refusal=Unavailable("Model is unavailable"))),
    "error_503_connections": get("/health", server={"access": AccessPolicy(max_connections=0)}),
    "load_adapter": post("/v1/load_lora_adapter", '{"lora_name":"a","lora_path":"b"}'),
    "unload_adapter": post("/v1/unload_lora_adapter", '{"lora_name":"a"}'),
    "error_400_adapter": post("/v1/load_lora_adapter", '{"lora_name":"tgi","lora_path":"b"}'),
    "error_404_adapter": post(
        "/v1/unload_lora_adapter",
        '{"lora_name":"a"}',
        server=ends(adapter_error=AdapterNotFound("a")),
    ),
    "unhealthy": get("/health", server=ends(reason="stalled")),
    "not_ready": get("/health/ready", server=ends(reason="restarting")),
}


@pytest.mark.parametrize("name", CALLS)
async def test_the_wire_is_the_one_on_record(
    name: str, golden: Callable[[str, bytes], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "randbelow", lambda below: 5)
    monkeypatch.setattr(secrets, "token_hex", lambda size: "0" * size * 2)
    call = CALLS[name]
    head, body = call.bytes()
    async with _served(call) as server:
        answer = await server.send_raw(head, body)
    answer = re.sub(rb"\r\nDate: [^\r]*", b"\r\nDate: ...", answer)
    answer = re.sub(rb"x-request-id: [0-9a-f]{32}", b"x-request-id: ...", answer)
    answer = re.sub(rb'"(created|created_at)":[1-9][0-9]*', rb'"\1":0', answer)
    sent = head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body
    golden(f"wire/{name}.http", sent + f"\n{LINE}\n".encode() + answer)


def _served(call: Call) -> AbstractAsyncContextManager[RunningServer]:
    settings: dict[str, Any] = {"server_info": SERVER_INFO, "timeouts": TIMEOUTS} | call.server
    make = settings.pop("dispatcher", ScriptedDispatcher)
    return serving(make(), **settings)


ROUTES = {
    "/": '{"inputs":"a"}',
    "/#stream": '{"inputs":"a","stream":true}',
    "/generate": '{"inputs":"a"}',
    "/generate_stream": '{"inputs":"a"}',
    "/invocations": '{"inputs":"a"}',
    "/vertex": '{"instances":[{"inputs":"a"}]}',
    "/tokenize": '{"inputs":"a"}',
    "/chat_tokenize": CHAT,
    "/v1/chat/completions": CHAT,
    "/v1/chat/completions#stream": STREAMED,
    "/v1/completions": '{"prompt":"a"}',
    "/v1/completions#stream": '{"prompt":"a","stream":true}',
    "/v1/responses": '{"input":"a"}',
    "/v1/messages": ASKED,
    "/v1/messages#stream": ASKED_STREAM,
    "/v1/messages/count_tokens": ASKED,
}
FORMS = {
    "": rb'\{"error":"[^"]*","error_type":"[^"]+"\}',
    "/v1": rb'\{"error":\{"message":"[^"]*","type":"\w+","code":"\w+"[^}]*\},"error_type":"\w+"\}',
    "/v1/messages": rb'\{"type":"error","error":\{"type":"\w+","message":"[^"]*"\}\}',
}
"""An error's, by the prefix of the path."""


def _form(path: str) -> bytes:
    return FORMS[max((prefix for prefix in FORMS if path.startswith(prefix)), key=len)]


BEFORE: dict[int, dict[str, Any]] = {
    400: {"body": "{"},
    401: {"server": {"access": KEY}},
    413: {"body": " " * 2001},
    415: {"kind": "application/x-www-form-urlencoded"},
    422: {"body": '{"inputs":1,"instances":1,"messages":1,"prompt":1.5,"input":1}'},
    503: {"server": ends(reason="draining")},
}
"""What fails before any work, by status."""
DURING = {
    424: ends(GenerationFailed("x")),
    429: ends(full=True),
    499: ends(Cancelled()),
    500: ends(FIRST, ending=None),
}


async def _ask(path: str, **more: Any) -> tuple[int, bytes, bytes]:
    route = path.partition("#")[0]
    call = Call("POST", route, **{"body": ROUTES[path], **more})
    async with _served(call) as server:
        answer = await server.send_raw(*call.bytes())
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(answer.split(b" ", 2)[1]), head + b"\r\n", body


@pytest.mark.parametrize("status", sorted(BEFORE))
@pytest.mark.parametrize("path", ROUTES)
async def test_what_fails_before_any_work_has_its_status_and_json_on_every_route(
    path: str, status: int
) -> None:
    told, head, body = await _ask(path, **BEFORE[status])
    assert told == status
    assert b"\r\nContent-Type: application/json\r\n" in head
    assert b"\r\nx-request-id: golden\r\n" in head
    assert re.fullmatch(_form(path), body.replace(b'\\"', b""))


@pytest.mark.parametrize("status", sorted(DURING))
@pytest.mark.parametrize("path", [path for path in ROUTES if "token" not in path])
async def test_what_fails_in_a_generation_has_its_status_or_its_event(
    path: str, status: int
) -> None:
    told, _, body = await _ask(path, server=DURING[status])
    form = _form(path)
    if "stream" in path and status != 429:
        assert told == 200
        end = rb"data: \[DONE\]\n\n" if form == FORMS["/v1"] else b""
        assert re.search(rb"data: " + form + rb"\n\n" + end + rb"$", _joined(body))
    else:
        assert told == (500 if path == "/vertex" and status == 424 else status)
        assert re.fullmatch(form, body)


OPENED = {"Authorization": "Bearer secret"}
LOCKED, LARGE = {"access": KEY}, "{" + " " * 2000
RULE = CHAT.replace("}]", '}],"top_p":2,"n":9')
GOING = {**LOCKED, **ends(reason="draining")}
BARE = {"template": ""}
NO_TOOL = CHAT.replace("}]", '}],"tool_choice":"g","n":9')
SUFFIX = '{"prompt":"a","suffix":"b","top_p":2}'
COUNT = '{"inputs":"","parameters":{"best_of":9,"top_k":0}}'
ORDER = [
    (404, "not_found", Call("PUT", "/v1/nowhere", LARGE, kind="text/plain", server=GOING)),
    (405, "method_not_allowed", Call("PUT", "/generate", LARGE, kind="text/plain", server=GOING)),
    (401, "unauthorized", post("/generate", LARGE, kind="text/plain", server=GOING)),
    (503, "unavailable", post("/generate", LARGE, kind="text/plain", head=OPENED, server=GOING)),
    (415, "unsupported_media_type", post("/generate", LARGE, kind="text/plain")),
    (413, "payload_too_large", post("/generate", LARGE)),
    (400, "bad_request", post("/generate", '{"inputs":1,', server=ends(full=True))),
    (422, "validation", post("/v1/chat/completions", '{"messages":1}', server=ends(full=True))),
    (422, "template_error", post("/v1/chat/completions", RULE, server=ends(full=True) | BARE)),
    (422, "tool_error", post("/v1/chat/completions", NO_TOOL, server=ends(full=True) | BARE)),
    (422, "suffix not supported", post("/v1/completions", SUFFIX, server=ends(full=True))),
    (422, "validation", post("/generate", COUNT, server=ends(full=True))),
    (429, "overloaded", post("/v1/chat/completions", RULE, server=ends(full=True))),
    (422, "validation", post("/v1/chat/completions", RULE, server=ends(refusal=Overloaded()))),
]
"""Requests that break a rule and all that are looked at behind it."""


@pytest.mark.parametrize(("status", "error_type", "call"), ORDER)
async def test_of_several_broken_rules_the_first_in_order_is_told(
    status: int, error_type: str, call: Call
) -> None:
    async with _served(call) as server:
        answer = await server.send_raw(*call.bytes())
    assert int(answer.split(b" ", 2)[1]) == status
    assert f'"error_type":"{error_type}"'.encode() in answer


def _joined(chunked: bytes) -> bytes:
    """The body that came in chunks."""
    body, rest = b"", chunked
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return body


async def test_every_method_but_its_own_is_refused_on_every_route() -> None:
    async with serving() as server:
        for path in {path for _, path in server.paths if "{" not in path}:
            allowed = {method for method, other in server.paths if other == path}
            for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - allowed:
                answer = await server.request(method, path)
                assert answer.status == 405
                assert "Method Not Allowed" in answer.body.decode()
                assert re.fullmatch(_form(path), answer.body)
                assert allowed <= set(answer.headers["Allow"].split(","))


def test_no_transcript_is_left_over(pytestconfig: pytest.Config) -> None:
    folder = pytestconfig.rootpath / "tests" / "golden" / "wire"
    assert {path.stem for path in folder.iterdir()} == set(CALLS)


async def test_every_route_has_a_transcript() -> None:
    asked = {f"{call.method} {call.path}" for call in CALLS.values()}
    elsewhere = {"GET /docs/{name}", "GET /api-doc/openapi.json"}
    elsewhere |= {"GET /ui", "GET /dashboard", "GET /ui/{name}"}
    async with serving() as server:
        routes = {f"{method} {path}" for method, path in server.paths} - elsewhere
    for route in routes:
        pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(route))
        assert any(re.fullmatch(pattern, call) for call in asked), route


def test_every_kind_of_error_has_a_transcript(pytestconfig: pytest.Config) -> None:
    folder = pytestconfig.rootpath / "tests" / "golden" / "wire"
    texts = [path.read_text() for path in folder.iterdir()]
    for error in RouterError.__subclasses__():
        assert any(f'"error_type":"{error.error_type}"' in text for text in texts), error


async def test_a_transcript_does_not_depend_on_what_came_before() -> None:
    call = CALLS["generate"]
    async with serving() as server:
        first, second = [await _once(server, call) for _ in range(2)]
    assert first == second


async def _once(server: RunningServer, call: Call) -> bytes:
    return re.sub(rb"\r\nDate: [^\r]*", b"", await server.send_raw(*call.bytes()))
