import asyncio
import json
import re
from dataclasses import replace

import pytest

from router.errors import (
    Cancelled,
    GenerationFailed,
    Overloaded,
    Unavailable,
    ValidationError,
)
from router.http.gateway import Timeouts
from router.requests.request import Request
from router.scheduler.api import RequestStatus
from shard.wire.protocol import Sampling, TopTokens
from tests.support.serving import (
    DRAFTING_SERVER_INFO,
    HELLO,
    ScriptedDispatcher,
    ScriptedRecord,
    Token,
    serving,
)

DETAILS = (
    b'"details":{"finish_reason":"eos_token","generated_tokens":3,"seed":null,"prefill":[],'
    b'"tokens":[{"id":15,"text":" Hello","logprob":-0.25,"special":false},'
    b'{"id":16,"text":" \xc2\xab\xe4\xb8\x96\xc2\xbb","logprob":-0.34277344,"special":false},'
    b'{"id":2,"text":"</s>","logprob":-1.5,"special":true}]}'
)
STREAM = (
    b'data: {"index":1,"token":{"id":15,"text":" Hello","logprob":-0.25,"special":false},'
    b'"generated_text":null,"details":null}\n\n'
    b'data: {"index":2,"token":{"id":16,"text":" \xc2\xab\xe4\xb8\x96\xc2\xbb",'
    b'"logprob":-0.34277344,"special":false},"generated_text":null,"details":null}\n\n'
    b'data: {"index":3,"token":{"id":2,"text":"</s>","logprob":-1.5,"special":true},'
    b'"generated_text":" Hello \xc2\xab\xe4\xb8\x96\xc2\xbb","details":null}\n\n'
)
GREEDY = {"do_sample": False}
JSON = {"Content-Type": "application/json"}


async def test_generate_answers_an_object_with_tgis_bytes() -> None:
    async with serving() as server:
        response = await server.post("/generate", {"inputs": "a", "parameters": {"details": True}})
        body = b'{"generated_text":" Hello \xc2\xab\xe4\xb8\x96\xc2\xbb",' + DETAILS + b"}"
        assert response.body == body
        assert response.headers["Content-Type"] == "application/json"


async def test_without_details_there_is_only_the_text() -> None:
    async with serving() as server:
        response = await server.post("/generate", {"inputs": "a", "parameters": {}})
        assert response.body == '{"generated_text":" Hello «世»"}'.encode()


async def test_the_root_answers_an_array_of_one_that_starts_with_the_prompt() -> None:
    async with serving() as server:
        response = await server.post("/", {"inputs": "Say", "parameters": {}})
        assert response.body == '[{"generated_text":"Say Hello «世»"}]'.encode()


async def test_the_root_of_another_kind_of_model_leaves_the_prompt_out() -> None:
    async with serving(server_info=DRAFTING_SERVER_INFO) as server:
        response = await server.post("/", {"inputs": "Say", "parameters": {}})
        assert response.body == '[{"generated_text":" Hello «世»"}]'.encode()


@pytest.mark.parametrize(("asked", "text"), [(True, "Say Hello «世»"), (False, " Hello «世»")])
async def test_return_full_text_overrules_the_route(asked: bool, text: str) -> None:
    async with serving() as server:
        body = {"inputs": "Say", "parameters": {"return_full_text": asked}}
        assert ((await server.post("/generate", body)).json())["generated_text"] == text
        assert ((await server.post("/", body)).json())[0]["generated_text"] == text


async def test_the_streaming_routes_send_one_event_for_each_token() -> None:
    async with serving() as server:
        body = {"inputs": "a", "parameters": {"return_full_text": False}, "stream": True}
        for path in ("/generate_stream", "/"):
            response = await server.post(path, body)
            assert response.body == STREAM
            assert response.status == 200
            assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
            assert response.headers["Cache-Control"] == "no-cache"
            assert response.headers["X-Accel-Buffering"] == "no"


async def test_the_last_event_carries_the_details() -> None:
    async with serving() as server:
        response = await server.post(
            "/generate_stream", {"inputs": "a", "parameters": {"details": True, "seed": 7}}
        )
        assert (response.body).endswith(
            b'"details":{"finish_reason":"eos_token","generated_tokens":3,"seed":null,'
            b'"input_length":3}}\n\n'
        )


OURS = (
    b'"drafted":4,"accepted":2,"queue_time":0.25,"attained_service":0.625,'
    b'"preemptions":{"keep":1,"swap":2,"recompute":0}'
)


async def test_a_server_with_a_drafter_tells_drafts_and_service() -> None:
    body = {"inputs": "a", "parameters": {"details": True, "do_sample": True, "seed": 7}}
    async with serving(server_info=DRAFTING_SERVER_INFO) as server:
        whole = (await server.post("/generate", body)).json()
        assert whole["details"]["seed"] == 7
        assert dict(list(whole["details"].items())[-5:]) == json.loads(b"{" + OURS + b"}")
        stream = (await server.post("/generate_stream", body)).body
        assert stream.endswith(b'"seed":7,"input_length":3,' + OURS + b"}}\n\n")


TOP = TopTokens((15, 3), (-0.25, -2.0))
TOLD = b'{"id":15,"text":" Hello","logprob":-0.25,"special":false}'
OTHER = b'{"id":3,"text":"x","logprob":-2.0,"special":false}'


async def test_the_likeliest_tokens_follow_the_token_and_the_tokens() -> None:
    script = ScriptedDispatcher(Token(15, " Hello", -0.25, top=TOP))
    body = {"inputs": "a", "parameters": {"details": True, "top_n_tokens": 2}}
    async with serving(script, server_info=DRAFTING_SERVER_INFO) as server:
        whole = (await server.post("/generate", body)).body
        tail = b'"tokens":[%b],"top_tokens":[[%b,%b]],' + OURS + b"}}"
        assert whole.endswith(tail % (TOLD, TOLD, OTHER))
        stream = (await server.post("/generate_stream", body)).body
        start = b'data: {"index":1,"token":%b,"top_tokens":[%b,%b],"generated_text":" Hello",'
        assert stream.startswith(start % (TOLD, TOLD, OTHER))


async def test_the_origin_of_each_token_is_reported_only_on_request() -> None:
    script = (Token(15, " Hello", -0.25, drafted=True), Token(2, "</s>", -1.5, True, rejected=3))
    first = b'"logprob":-0.25,"special":false,"drafted":true,"rejected":0}'
    last = b'"logprob":-1.5,"special":true,"drafted":false,"rejected":3}'
    asked = {"inputs": "a", "parameters": {"details": True, "draft_details": True}}
    plain = {"inputs": "a", "parameters": {"details": True}}
    async with serving(ScriptedDispatcher(*script)) as server:
        for path in ("/generate", "/generate_stream"):
            body = (await server.post(path, asked)).body
            assert (body.count(first), body.count(last)) == (1, 1)
            assert b'"rejected"' not in (await server.post(path, plain)).body


async def test_the_prompt_is_told_and_brings_the_details() -> None:
    async with serving() as server:
        body = {"inputs": "a", "parameters": {"decoder_input_details": True}}
        details = (await server.post("/generate", body)).json()["details"]
        assert details["prefill"] == [
            {"id": 1, "text": "a", "logprob": None},
            {"id": 2, "text": "b", "logprob": -0.5},
        ]
        assert list(details["prefill"][0]) == ["id", "text", "logprob"]


async def test_the_best_sequence_wins_and_the_others_are_told() -> None:
    heads = ([Token(1, "bad", -9.0)], [Token(2, "good", -0.5)])
    script = ScriptedDispatcher(Token(15, " end", -0.25), heads=heads)
    parameters = {"best_of": 2, "do_sample": True, "details": True}
    async with serving(script) as server:
        whole = (await server.post("/generate", {"inputs": "a", "parameters": parameters})).json()
        assert whole["generated_text"] == "good end"
        [other] = whole["details"]["best_of_sequences"]
        assert list(whole["details"]) == [
            "finish_reason",
            "generated_tokens",
            "seed",
            "prefill",
            "tokens",
            "best_of_sequences",
        ]
        assert list(other) == [
            "generated_text",
            "finish_reason",
            "generated_tokens",
            "seed",
            "prefill",
            "tokens",
        ]
        assert other["generated_text"] == "bad end"
        (first, _), (second, _) = script.opened
        assert (other["seed"], whole["details"]["seed"]) == (first.seed, second.seed)
        assert first.seed != second.seed
        plain = {**parameters, "details": False}
        whole = (await server.post("/generate", {"inputs": "a", "parameters": plain})).json()
        assert whole == {"generated_text": "good end"}


async def test_without_parameters_it_samples_and_reports_the_seed_it_picked() -> None:
    async with serving() as server:
        await server.post("/generate", {"inputs": "a"})
        request, _ = server.dispatcher.opened[0]
        assert request.sampling.temperature == 1.0
        assert request.seed is not None
        assert request.seed < 1 << 53


async def test_a_whole_answer_tells_where_its_time_went() -> None:
    async with serving() as server:
        response = await server.post("/generate", {"inputs": "世ab", "parameters": {}})
        timings = {
            "x-compute-type": "1-cpu",
            "x-compute-time": "2.000000",
            "x-compute-characters": "3",
            "x-total-time": "2000",
            "x-validation-time": "250",
            "x-queue-time": "250",
            "x-inference-time": "1500",
            "x-time-per-token": "500",
            "x-prompt-tokens": "3",
            "x-generated-tokens": "3",
        }
        assert {name: response.headers[name] for name in timings} == timings


async def test_a_stream_tells_only_what_is_known_at_its_start() -> None:
    async with serving() as server:
        response = await server.post("/generate_stream", {"inputs": "世ab"})
        assert response.headers["x-compute-type"] == "1-cpu"
        assert response.headers["x-compute-characters"] == "3"
        assert "x-total-time" not in response.headers


@pytest.mark.parametrize(
    ("error", "status", "body"),
    [
        (
            GenerationFailed("out of memory"),
            424,
            b'{"error":"Request failed during generation: Server error: out of memory",'
            b'"error_type":"generation"}',
        ),
        (Cancelled(), 499, b'{"error":"Request was cancelled","error_type":"cancelled"}'),
        (
            Unavailable("Model is unavailable"),
            503,
            b'{"error":"Model is unavailable","error_type":"unavailable"}',
        ),
    ],
)
async def test_a_bad_end_has_its_status(error: Exception, status: int, body: bytes) -> None:
    async with serving(ScriptedDispatcher(Token(1, "a", -1.0), error)) as server:
        response = await server.post("/generate", {"inputs": "a"})
        assert (response.status, response.body) == (status, body)
        stream = (await server.post("/generate_stream", {"inputs": "a"})).body
        assert stream.endswith(b"data: " + body + b"\n\n")


async def test_a_generation_without_its_last_token_is_an_error() -> None:
    script = ScriptedDispatcher(Token(1, "a", -1.0), ending=None)
    async with serving(script) as server:
        response = await server.post("/generate", {"inputs": "a"})
        assert response.status == 500
        stream = (await server.post("/generate_stream", {"inputs": "a"})).body
        assert stream.endswith(
            b'data: {"error":"Incomplete generation stream",'
            b'"error_type":"incomplete_generation_stream"}\n\n'
        )


async def test_a_number_that_json_cannot_hold_is_an_error_not_a_null() -> None:
    async with serving(ScriptedDispatcher(Token(1, "a", float("nan")))) as server:
        stream = (await server.post("/generate_stream", {"inputs": "a"})).body
        assert stream == (
            b'data: {"error":"Stream event serialization error",'
            b'"error_type":"stream_serialization_error"}\n\n'
        )


@pytest.mark.parametrize("path", ["/", "/generate", "/generate_stream"])
async def test_what_fails_before_generation_has_its_status_even_when_streaming(path: str) -> None:
    body = {"inputs": "", "stream": True}
    async with serving() as server:
        response = await server.post(path, body)
        assert response.status == 422
        assert response.body == (
            b'{"error":"Input validation error: `inputs` cannot be empty",'
            b'"error_type":"validation"}'
        )


async def test_what_the_dispatcher_refuses_has_its_status_when_streaming() -> None:
    async with serving(ScriptedDispatcher(refusal=ValidationError("too long"))) as server:
        response = await server.post("/generate_stream", {"inputs": "a"})
        assert response.status == 422
        assert (response.json())["error"] == "Input validation error: too long"


async def test_a_full_server_says_when_to_come_back_before_it_validates() -> None:
    async with serving(ScriptedDispatcher(full=True)) as server:
        response = await server.post("/generate", {"inputs": ""})
        assert response.status == 429
        assert response.headers["Retry-After"] == "1"
        assert response.body == (b'{"error":"Model is overloaded","error_type":"overloaded"}')
        counts = {"inputs": "a", "parameters": {"best_of": 3}}
        assert (await server.post("/generate", counts)).status == 422


@pytest.mark.parametrize(("wait", "header"), [(0.0, "1"), (1.0, "1"), (6.2, "7"), (600.0, "600")])
@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/v1/completions"])
async def test_a_refusal_advises_the_estimated_wait_in_whole_seconds(
    path: str, wait: float, header: str
) -> None:
    async with serving(ScriptedDispatcher(refusal=Overloaded(wait))) as server:
        response = await server.post(path, {"inputs": "a", "prompt": "a"})
    assert (response.status, response.headers["Retry-After"]) == (429, header)
    assert response.json()["error_type"] == "overloaded"


async def test_probes_advise_the_estimated_time_until_the_shards_are_back() -> None:
    async with serving(ScriptedDispatcher(reason="restarting")) as server:
        for path in ("/", "/health", "/ping", "/health/ready"):
            response = await server.request("GET", path)
            assert (response.status, response.headers["Retry-After"]) == (503, "7")


@pytest.mark.parametrize(
    ("reason", "text"),
    [("draining", "Server is shutting down"), ("failed", "Model is unavailable")],
)
async def test_a_server_that_ends_refuses_before_it_reads(reason: str, text: str) -> None:
    async with serving(ScriptedDispatcher(reason=reason)) as server:
        response = await server.post("/generate", data=b"not json")
        assert response.status == 503
        assert response.json() == {"error": text, "error_type": "unavailable"}
        assert response.headers["Retry-After"] == "1"
        assert response.headers["Connection"] == "close"


@pytest.mark.parametrize("reason", ["restarting", "stalled"])
async def test_while_shards_restart_requests_still_queue(reason: str) -> None:
    async with serving(ScriptedDispatcher(reason=reason)) as server:
        assert (await server.post("/generate", {"inputs": "a"})).status == 200


@pytest.mark.parametrize("path", ["/", "/health", "/ping", "/health/live", "/health/ready"])
async def test_a_healthy_server_answers_probes_with_an_empty_body(path: str) -> None:
    async with serving() as server:
        response = await server.request("GET", path)
        assert (response.status, response.body) == (200, b"")


async def test_an_unhealthy_server_says_so_and_ready_says_why() -> None:
    async with serving(ScriptedDispatcher(reason="draining")) as server:
        for path in ("/", "/health", "/ping"):
            response = await server.request("GET", path)
            assert response.status == 503
            assert response.body == b'{"error":"unhealthy","error_type":"healthcheck"}'
        response = await server.request("GET", "/health/ready")
        assert response.status == 503
        assert response.body == (
            b'{"error":"unhealthy","error_type":"healthcheck","reason":"draining"}'
        )
        assert (await server.request("GET", "/health/live")).status == 200


async def test_info_describes_the_server_in_tgis_order() -> None:
    async with serving() as server:
        assert (await server.request("GET", "/info")).body == (
            b'{"model_id":"bigscience/bloom-560m","model_sha":"abc","model_pipeline_tag":null,'
            b'"max_concurrent_requests":3,"max_best_of":2,"max_stop_sequences":4,'
            b'"max_input_tokens":1999,"max_total_tokens":2000,"validation_workers":2,'
            b'"max_client_batch_size":4,"router":"text-generation-router","version":"0.1.0",'
            b'"sha":null,"docker_label":null,"speculate":0,"draft_model_id":null,"drafter":null,'
            b'"scheduler":{"policy":"fcfs","queue_depth":[2,1],"running":3,'
            b'"perceptible_share":0.666667,"estimate_error":0.0625,"acceptance_rate":0.75,'
            b'"preemptions":{"keep":1,"swap":2,"recompute":0}}}'
        )


def scripted(*, steps: int = 0, tokens: int = 0) -> ScriptedRecord:
    record = ScriptedRecord(Request("a", Sampling()), (), None, steps=steps)
    record.tokens += [HELLO[0]] * tokens
    return record


async def test_a_queued_request_learns_its_estimated_wait() -> None:
    look = RequestStatus(2, False, 0.5, 1.25, 3.5, {"keep": 1, "swap": 0, "recompute": 0})
    served = replace(look, level=0, wait=0.0, perceptible=True)
    async with serving() as server:
        server.dispatcher.known["mine:1"] = [
            (scripted(), None),
            (scripted(), look),
            (scripted(steps=4, tokens=2), look),
            (scripted(steps=4, tokens=2), served),
        ]
        response = await server.request("GET", "/requests/mine:1")
        assert response.status == 200
        body = response.json()
        assert body["request_id"] == "mine:1"
        fresh, queued, paused, running = body["sequences"]
        assert fresh == {"state": "queued", "emitted_tokens": 0}
        assert queued == {
            "state": "queued",
            "emitted_tokens": 0,
            "level": 1,
            "perceptible": False,
            "estimated_wait": 3.5,
            "estimated_service": 1.25,
            "attained_service": 0.5,
            "preemptions": {"keep": 1, "swap": 0, "recompute": 0},
        }
        assert paused == {**queued, "state": "paused", "emitted_tokens": 2}
        assert (running["state"], running["level"], running["perceptible"]) == ("running", 0, True)


@pytest.mark.parametrize(
    ("method", "path"), [("DELETE", "/requests/mine"), ("POST", "/cancel/mine")]
)
async def test_a_request_is_cancelled_by_its_id_once(method: str, path: str) -> None:
    async with serving() as server:
        server.dispatcher.known["mine"] = [(scripted(), None)] * 2
        response = await server.request(method, path)
        assert (response.status, response.json()) == (200, {"request_id": "mine", "cancelled": 2})
        for again, there in ((method, path), ("GET", "/requests/mine")):
            response = await server.request(again, there)
            assert (response.status, response.json()["error_type"]) == (404, "not_found")


async def test_a_wrong_content_type_is_refused() -> None:
    async with serving() as server:
        for kind in ("text/plain", "application/jsonx", "application/x-www-form-urlencoded"):
            response = await server.post("/", data=b"{}", headers={"Content-Type": kind})
            assert response.status == 415
            assert response.body == (
                b'{"error":"Expected request with `Content-Type: application/json`",'
                b'"error_type":"unsupported_media_type"}'
            )


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/ld+json"]
)
async def test_every_kind_of_json_is_taken(kind: str) -> None:
    async with serving() as server:
        body = b'{"inputs":"a"}'
        response = await server.post("/generate", data=body, headers={"Content-Type": kind})
        assert response.status == 200


def _padded(size: int) -> bytes:
    return b'{"inputs":"a"' + b" " * (size - 14) + b"}"


async def test_a_body_of_the_limit_passes_and_one_byte_more_does_not() -> None:
    async with serving() as server:
        assert (await server.post("/generate", data=_padded(2000), headers=JSON)).status == 200
        response = await server.post("/generate", data=_padded(2001), headers=JSON)
        assert response.status == 413
        assert response.body == (
            b'{"error":"Failed to buffer the request body: length limit exceeded",'
            b'"error_type":"payload_too_large"}'
        )


async def test_a_body_that_declares_too_much_is_refused_unread() -> None:
    async with serving() as server:
        answer = await server.send_raw(
            "POST / HTTP/1.1\nHost: x\nContent-Type: application/json\nContent-Length: 9000000"
        )
        assert answer.startswith(b"HTTP/1.1 413")


async def test_a_body_that_hides_its_size_is_refused_at_the_limit() -> None:
    async with serving() as server:
        answer = await server.send_raw(
            "POST / HTTP/1.1\nHost: x\nContent-Type: application/json\nTransfer-Encoding: chunked",
            b"bb8\r\n" + b" " * 3000 + b"\r\n",
        )
        assert answer.startswith(b"HTTP/1.1 413")


async def test_a_body_that_drips_is_given_up() -> None:
    async with serving(timeouts=Timeouts(body=0.01, linger=0.05)) as server:
        answer = await server.send_raw(
            "POST / HTTP/1.1\nHost: x\nContent-Type: application/json\nContent-Length: 100", b"{"
        )
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"x-should-retry: false" in answer
        assert answer.endswith(
            b'{"error":"Timed out while reading the request body","error_type":"request_timeout"}'
        )


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_ends_its_generation(stream: bool) -> None:
    script = ScriptedDispatcher(Token(1, "a", -1.0), asyncio.Event(), Token(2, "b", -1.0))
    async with serving(script) as server:
        body = b'{"inputs":"a"}'
        path = "/generate_stream" if stream else "/generate"
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        await script.entered.wait()
        writer.transport.abort()
        await script.left.wait()
        metrics = (await server.request("GET", "/metrics")).body.decode()
        assert 'tgi_request_failure{err="dropped"} 1.0\n' in metrics


async def test_a_silent_stream_is_kept_alive_with_comments() -> None:
    gate = asyncio.Event()
    script = ScriptedDispatcher(gate, Token(1, "a", -1.0), ending="length")
    async with (
        serving(script, timeouts=Timeouts(comment_interval=0.001)) as server,
        server.session.post(f"{server.base_url}/generate_stream", json={"inputs": "a"}) as response,
    ):
        assert await response.content.readexactly(6) == b":\n\n:\n\n"
        gate.set()
        rest = re.sub(rb"^(:\n\n)*", b"", await response.content.read())
        assert rest.startswith(b'data: {"index":1,')


async def test_a_client_that_does_not_read_is_cut_off() -> None:
    flood = [Token(1, "x" * 65536, -1.0)] * 400
    script = ScriptedDispatcher(*flood)
    async with serving(script, timeouts=Timeouts(stall=0.05)) as server:
        async with server.session.post(
            f"{server.base_url}/generate_stream", json={"inputs": "a"}
        ) as response:
            await script.left.wait()
            assert response.status == 200
            response.close()
        metrics = (await server.request("GET", "/metrics")).body.decode()
        assert 'tgi_request_failure{err="dropped"} 1.0\n' in metrics


async def test_how_requests_end_is_counted() -> None:
    async with serving() as server:
        await server.post("/generate", {"inputs": "a"})
        await server.post("/generate", {"inputs": ""})
        await server.post("/generate", data=b"{", headers=JSON)
        metrics = (await server.request("GET", "/metrics")).body.decode()
        assert "tgi_request_count 2.0\n" in metrics
        assert "tgi_request_success 1.0\n" in metrics
        assert 'tgi_request_failure{err="validation"} 1.0\n' in metrics
        assert "tgi_request_duration_sum 2.0\n" in metrics


async def test_tokens_are_told_with_the_bytes_that_they_come_from() -> None:
    async with serving() as server:
        response = await server.post("/tokenize", {"inputs": "the 世"})
        assert response.status == 200
        assert response.body.startswith(b'[{"id":256,"text":"th","start":0,"stop":2},')
        tokens = response.json()
        assert [(token["start"], token["stop"]) for token in tokens] == [
            *((0, 2), (2, 3), (3, 4)),
            *((4, 7), (4, 7)),  # one character of three bytes in two tokens
        ]
        assert [token["text"] for token in tokens] == ["th", "e", " ", "世", "世"]


async def test_truncate_and_the_other_parameters_change_nothing() -> None:
    async with serving() as server:
        body = {"inputs": "abc", "parameters": {"truncate": 1, "temperature": -1.0}}
        assert len((await server.post("/tokenize", body)).json()) == 3
        assert (await server.post("/tokenize", {"inputs": ""})).json() == []


async def test_tokenizing_takes_a_permit_like_a_generation() -> None:
    chat = {"messages": [{"role": "user", "content": "a"}]}
    async with serving(ScriptedDispatcher(full=True)) as server:
        for path, body in (("/tokenize", {"inputs": "a"}), ("/chat_tokenize", chat)):
            response = await server.post(path, body)
            assert (response.status, response.headers["Retry-After"]) == (429, "1")
            assert response.json()["error_type"] == "overloaded"


async def test_a_body_of_wrong_types_is_refused() -> None:
    async with serving() as server:
        response = await server.post("/tokenize", {"inputs": ["a"]})
        assert response.status == 422
        assert "inputs: " in response.json()["error"]
