"""The OpenAPI document and the page that shows it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from router.http.openapi_document import openapi_document
from router.route_groups import OPERATIONS
from tests.support.serving import serving

DOCUMENT = json.loads(openapi_document(OPERATIONS))
TGI_PATHS = {
    *(("/", "post"), ("/generate", "post"), ("/generate_stream", "post"), ("/health", "get")),
    *(("/info", "get"), ("/metrics", "get"), ("/tokenize", "post")),
}
"""Those of TGI's document that are native."""
TGI_FIELDS = {
    "CompatGenerateRequest": "inputs parameters stream",
    "GenerateRequest": "inputs parameters",
    "GenerateParameters": (
        "best_of temperature repetition_penalty frequency_penalty top_k top_p typical_p do_sample"
        " max_new_tokens return_full_text stop truncate watermark details decoder_input_details"
        " seed top_n_tokens grammar adapter_id"
    ),
    "GenerateResponse": "generated_text details",
    "Details": ("finish_reason generated_tokens seed prefill tokens best_of_sequences top_tokens"),
    "BestOfSequence": (
        "generated_text finish_reason generated_tokens seed prefill tokens top_tokens"
    ),
    "StreamResponse": "index token top_tokens generated_text details",
    "StreamDetails": "finish_reason generated_tokens seed input_length",
    "Token": "id text logprob special",
    "PrefillToken": "id text logprob",
    "SimpleToken": "id text start stop",
    "ErrorResponse": "error error_type",
    "Info": (
        "model_id model_sha model_pipeline_tag max_concurrent_requests max_best_of"
        " max_stop_sequences max_input_tokens max_total_tokens validation_workers"
        " max_client_batch_size router version sha docker_label"
    ),
}


def test_the_document_is_the_one_on_record(golden: Callable[[str, bytes], None]) -> None:
    golden("openapi.json", json.dumps(DOCUMENT, indent=1, ensure_ascii=False).encode())


@pytest.mark.parametrize(("path", "method"), sorted(TGI_PATHS))
def test_no_path_of_tgi_is_missing(path: str, method: str) -> None:
    assert method in DOCUMENT["paths"][path]


@pytest.mark.parametrize("name", sorted(TGI_FIELDS))
def test_no_field_of_tgi_is_missing(name: str) -> None:
    schema = DOCUMENT["components"]["schemas"][name]
    assert set(TGI_FIELDS[name].split()) <= set(schema["properties"])


def test_every_reference_leads_somewhere_and_operations_have_names_of_their_own() -> None:
    text = json.dumps(DOCUMENT)
    names = set(re.findall(r'"#/components/schemas/(\w+)"', text))
    assert names <= set(DOCUMENT["components"]["schemas"])
    operations = [each for path in DOCUMENT["paths"].values() for each in path.values()]
    assert len({each["operationId"] for each in operations}) == len(operations)


def test_every_property_has_a_description() -> None:
    undescribed = [name for name, schema in properties(DOCUMENT) if not description(schema)]
    assert undescribed == []


def test_every_schema_operation_and_path_parameter_is_described() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    operations = [each for path in DOCUMENT["paths"].values() for each in path.values()]
    described = [*schemas.values(), *(item for each in operations for item in parameters(each))]
    assert all(each.get("description") for each in described)
    assert all(each["summary"] for each in operations)


def properties(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every property of every schema in `node`, by its path in the document."""
    children = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in children:
        if key == "properties":
            yield from ((f"{path}/{name}", schema) for name, schema in value.items())
        if isinstance(value, dict | list):
            yield from properties(value, f"{path}/{key}")


def description(schema: dict[str, Any]) -> str:
    """The description of `schema`, or of the schema that it refers to."""
    name = schema.get("$ref", "").rpartition("/")[2]
    target = DOCUMENT["components"]["schemas"].get(name, {})
    return str(schema.get("description") or target.get("description", ""))


def parameters(operation: dict[str, Any]) -> list[dict[str, Any]]:
    return list(operation.get("parameters", []))


async def test_every_route_of_the_server_is_in_the_document_and_no_other() -> None:
    async with serving() as server:
        text = (await server.request("GET", "/api-doc/openapi.json")).json()
        served = {(path, method.lower()) for method, path in server.paths}
    documented = {(path, method) for path, item in text["paths"].items() for method in item}
    hidden = {("/docs", "get"), ("/docs/{name}", "get"), ("/api-doc/openapi.json", "get")}
    hidden |= {(path, "get") for path in ("/ui", "/dashboard", "/ui/{name}")}
    assert served - hidden == documented


async def test_a_response_has_the_fields_of_the_document() -> None:
    properties: dict[str, Any] = DOCUMENT["components"]["schemas"]
    async with serving() as server:
        info = (await server.request("GET", "/info")).json()
        assert list(info) == list(properties["Info"]["properties"])
        body = {"inputs": "a", "parameters": {"details": True, "top_n_tokens": 1}}
        details = (await server.post("/generate", body)).json()["details"]
        order = [name for name in properties["Details"]["properties"] if name in details]
        assert list(details) == order


async def test_every_example_is_a_valid_request() -> None:
    async with serving() as server:
        for path, item in DOCUMENT["paths"].items():
            if body := item.get("post", {}).get("requestBody"):
                example = body["content"]["application/json"]["example"]
                assert example
                assert (await server.post(path, example)).status == 200


async def test_the_page_and_all_that_it_loads_come_from_the_server() -> None:
    async with serving() as server:
        page = await server.request("GET", "/docs")
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        links = re.findall(r'(?:href|src|url: )=?"([^"]+)"', page.body.decode())
        assert links.pop(0) == "data:,"  # no icon, so that none is looked for
        assert links == ["docs/swagger-ui.css", "docs/swagger-ui-bundle.js", "api-doc/openapi.json"]
        kinds = ["text/css", "text/javascript", "application/json"]
        for link, kind in zip(links, kinds, strict=True):
            part = await server.request("GET", "/" + link)
            assert (part.status, part.headers["Content-Type"]) == (200, kind)
            assert len(part.body) > 1000
        for name in ("swagger-ui.js", "..%2f__init__.py", "LICENSE"):
            assert (await server.request("GET", f"/docs/{name}")).status == 404


async def test_a_server_without_pages_still_serves_its_document() -> None:
    async with serving(with_pages=False) as server:
        for path in ("/docs", "/docs/swagger-ui.css"):
            assert (await server.request("GET", path)).status == 404
        assert (await server.request("GET", "/api-doc/openapi.json")).json() == DOCUMENT
