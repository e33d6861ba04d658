"""Keys and CORS, over real connections."""

from __future__ import annotations

import asyncio

import pytest

from router.http.access import HEALTH_PATHS, AccessPolicy
from tests.support.serving import ScriptedDispatcher, serving

KEY = AccessPolicy(api_keys=("s3crét",))
GOOD = {"Authorization": "Bearer s3crét"}
REFUSED = b'{"error":"Unauthorized","error_type":"unauthorized"}'


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("POST", path) for path in ("/", "/generate", "/generate_stream", "//generate")),
        *(("GET", path) for path in ("/info", "//info", "/health/../info")),
    ],
)
async def test_without_the_key_nothing_is_answered_but_a_refusal(method: str, path: str) -> None:
    async with serving(access=KEY) as server:
        answer = await server.send_raw(
            f"{method} {path} HTTP/1.1\nHost: x\nConnection: close\n"
            "Content-Type: application/json\nContent-Length: 14",
            b'{"inputs":"a"}',
        )
        assert answer.startswith((b"HTTP/1.1 401", b"HTTP/1.1 404"))
        if b" 401 " in answer.splitlines()[0]:
            assert answer.endswith(REFUSED)
            assert b"WWW-Authenticate: Bearer\r\n" in answer
        assert not server.dispatcher.opened


@pytest.mark.parametrize(
    "given",
    ["", "Bearer", "Bearer ", "Bearer S3CRÉT", "Bearer s3crét2", "Basic s3crét", "s3crét"],
)
async def test_another_key_is_as_good_as_none(given: str) -> None:
    async with serving(access=KEY) as server:
        answer = await server.post("/generate", {"inputs": "a"}, headers={"Authorization": given})
        assert (answer.status, answer.body) == (401, REFUSED)
        assert "s3crét" not in str(answer.headers)


@pytest.mark.parametrize("given", ["Bearer s3crét", "bearer s3crét", "BEARER  s3crét"])
async def test_the_key_opens_whatever_the_case_of_its_scheme(given: str) -> None:
    async with serving(access=KEY) as server:
        answer = await server.post("/generate", {"inputs": "a"}, headers={"Authorization": given})
        assert answer.status == 200


@pytest.mark.parametrize("authorization", [None, "Bearer other", "Basic s3crét"])
async def test_the_key_opens_in_anthropics_header_too(authorization: str | None) -> None:
    more = {} if authorization is None else {"Authorization": authorization}
    async with serving(access=KEY) as server:
        for key, status in (("s3crét", 200), ("other", 401)):
            headers = {"x-api-key": key, **more}
            answer = await server.post("/generate", {"inputs": "a"}, headers=headers)
            assert answer.status == status


async def test_probes_and_metrics_stay_open_and_metrics_can_be_closed() -> None:
    async with serving(access=KEY) as server:
        for path in (*HEALTH_PATHS, "/metrics"):
            assert (await server.request("GET", path)).status == 200
        assert (await server.request("HEAD", "/health")).status == 200
    async with serving(access=AccessPolicy(api_keys=("s3crét",), protect_metrics=True)) as server:
        assert (await server.request("GET", "/metrics")).status == 401
        assert (await server.request("GET", "/metrics", headers=GOOD)).status == 200
        assert (await server.request("GET", "/health")).status == 200


@pytest.mark.parametrize("given", ["Bearer", "Bearer anything", "nonsense"])
async def test_without_a_key_the_header_is_ignored(given: str) -> None:
    async with serving() as server:
        answer = await server.post("/generate", {"inputs": "a"}, headers={"Authorization": given})
        assert answer.status == 200


async def test_path_and_method_are_looked_at_before_the_key_and_the_key_before_the_body() -> None:
    async with serving(ScriptedDispatcher(reason="draining"), access=KEY) as server:
        assert (await server.post("/nowhere", {})).status == 404
        assert (await server.request("GET", "/generate")).status == 405
        assert (await server.post("/generate", data=b"{")).status == 401
        assert (await server.post("/generate", data=b"{", headers=GOOD)).status == 503


ASKS = {
    "Origin": "https://a.example",
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}


@pytest.mark.parametrize("path", ["/generate", "/info", "/nowhere", "/v1/chat/completions"])
async def test_a_page_may_ask_first_on_every_route_and_without_a_key(path: str) -> None:
    async with serving(access=KEY) as server:
        answer = await server.request("OPTIONS", path, headers=ASKS)
        assert (answer.status, answer.body) == (200, b"")
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert answer.headers["Access-Control-Allow-Methods"] == "GET, POST, DELETE, OPTIONS"
        assert answer.headers["Access-Control-Allow-Headers"] == "authorization,content-type"


@pytest.mark.parametrize(
    "requested",
    [
        "x-stainless-os",
        "authorization, content-type, x-stainless-arch,x-stainless-retry-count",
        "http-referer,x-title",
        "openai-organization\t,  helicone-auth",
        ", ".join(f"x-header-{number}" for number in range(200)),
    ],
)
async def test_a_page_may_send_the_headers_that_it_asks_for(requested: str) -> None:
    async with serving(access=KEY) as server:
        headers = {**ASKS, "Access-Control-Request-Headers": requested}
        answer = await server.request("OPTIONS", "/v1/chat/completions", headers=headers)
        assert answer.headers["Access-Control-Allow-Headers"] == requested


@pytest.mark.parametrize("requested", ["", "a b", "a;b", "a,,b", "a:b", "é", '"a"', ",a"])
async def test_a_list_of_headers_that_is_not_one_is_not_echoed(requested: str) -> None:
    async with serving() as server:
        headers = {**ASKS, "Access-Control-Request-Headers": requested}
        answer = await server.request("OPTIONS", "/generate", headers=headers)
        allowed = answer.headers["Access-Control-Allow-Headers"].split(", ")
        assert allowed == ["content-type", "authorization", "x-request-id", "traceparent"]


@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
async def test_answers_errors_and_streams_tell_a_page_what_it_may_read(path: str) -> None:
    page = {"Origin": "https://a.example"}
    async with serving() as server:
        for body in ({"inputs": "a"}, {"inputs": ""}):
            answer = await server.post(path, body, headers=page)
            assert answer.headers["Access-Control-Allow-Origin"] == "*"
            assert "x-request-id" in answer.headers["Access-Control-Expose-Headers"]
        assert "Access-Control-Allow-Origin" not in (await server.post(path, {})).headers


async def test_only_named_origins_are_let_in() -> None:
    access = AccessPolicy(allowed_origins=("https://a.example", "https://b.example"))
    async with serving(access=access) as server:
        for method in ("GET", "OPTIONS"):
            answer = await server.request(method, "/info", headers=ASKS)
            assert answer.headers["Access-Control-Allow-Origin"] == "https://a.example"
            assert answer.headers["Vary"] == "Origin"
            evil = {**ASKS, "Origin": "https://a.example.evil"}
            answer = await server.request(method, "/info", headers=evil)
            assert "Access-Control-Allow-Origin" not in answer.headers
            assert answer.headers["Vary"] == "Origin"


async def test_a_connection_above_the_cap_is_told_so_and_closed() -> None:
    async with serving(access=AccessPolicy(max_connections=2)) as server:
        held = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(2)]
        for _, writer in held:
            writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        for reader, _ in held:
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        answer = await server.send_raw("GET /health HTTP/1.1\nHost: x")
        assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"\r\nRetry-After: 1\r\n" in answer
        assert b"\r\nConnection: close\r\n" in answer
        assert answer.endswith(b'{"error":"Too many connections","error_type":"unavailable"}')
        for _, writer in held:
            writer.close()
            await writer.wait_closed()
        metrics = (await server.request("GET", "/metrics")).body
        assert b"\ntgi_connections_refused 1.0\n" in metrics


@pytest.mark.parametrize(
    "head",
    [
        "nonsense",
        "GET / HTTP/9.9\nHost: x",
        "POST / HTTP/1.1\nHost: x\nContent-Length: 1\nTransfer-Encoding: chunked",
        "POST / HTTP/1.1\nHost: x\nContent-Length: -1",
    ],
)
async def test_what_is_no_http_is_told_so_in_json(head: str) -> None:
    async with serving() as server:
        answer = await server.send_raw(head)
        assert answer.startswith(b"HTTP/1.")
        assert answer.split(b" ", 2)[1] == b"400"
        assert answer.endswith(b'{"error":"Bad request","error_type":"bad_request"}')


async def test_under_v1_errors_have_openais_form() -> None:
    async with serving(access=KEY) as server:
        answer = await server.request("GET", "/v1/nowhere")
        assert (answer.status, answer.body) == (
            404,
            b'{"error":{"message":"Not Found","type":"invalid_request_error","code":"not_found"},'
            b'"error_type":"not_found"}',
        )
        assert (await server.request("GET", "/v10")).json()["error"] == "Not Found"


async def test_each_of_several_keys_opens_the_server() -> None:
    async with serving(access=AccessPolicy(api_keys=("one", "two"))) as server:
        for key, status in (("one", 200), ("two", 200), ("three", 401), ("onetwo", 401)):
            headers = {"Authorization": f"Bearer {key}"}
            answer = await server.post("/generate", {"inputs": "a"}, headers=headers)
            assert answer.status == status


@pytest.mark.parametrize("per_key", [False, True])
async def test_a_request_id_means_only_requests_with_the_same_key(*, per_key: bool) -> None:
    access = AccessPolicy(api_keys=("one", "two"), prefix_cache_per_key=per_key)
    async with serving(access=access) as server:
        for key in ("one", "two"):
            headers = {"Authorization": f"Bearer {key}"}
            await server.post("/generate", {"inputs": "a"}, headers=headers)
            for method in ("GET", "DELETE"):
                await server.request(method, "/requests/mine", headers=headers)
        one, *others = server.dispatcher.callers
        assert others == [one, one, others[-1], others[-1], others[-1]]
        assert "" != one != others[-1] != ""
        assert "one" not in one


async def test_an_open_server_knows_one_caller() -> None:
    async with serving() as server:
        for key in ("one", "two"):
            headers = {"Authorization": f"Bearer {key}"}
            await server.request("DELETE", "/requests/mine", headers=headers)
        assert server.dispatcher.callers == ["", ""]


def test_prefixes_are_shared_by_key_only_if_that_is_asked_for() -> None:
    def scope(key: str, *, per_key: bool) -> str:
        policy = AccessPolicy(api_keys=("one", "two"), prefix_cache_per_key=per_key)
        headers = {"Authorization": f"Bearer {key}"}
        return policy.cache_scope(policy.authorize("POST", "/generate", headers))

    assert scope("one", per_key=False) == scope("two", per_key=False) == ""
    assert scope("one", per_key=True) == scope("one", per_key=True)
    assert scope("one", per_key=True) != scope("two", per_key=True)
    assert "one" not in scope("one", per_key=True)
