"""Valid and invalid requests get only responses that the OpenAPI document describes.

schemathesis makes the cases, from the document of a running server; how many for each body
`--cases` says. To make them takes longer than to answer them, so operations that take the same body
get the same cases. No case may bring a 5xx, an unknown status, or a body of another shape.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from router.anthropic.openapi import ANTHROPIC_OPERATIONS
from router.cloud import CLOUD_OPERATIONS, VertexRequest
from router.http.openapi_document import Operation, openapi_document
from router.native.openapi import NATIVE_OPERATIONS
from router.native.request_models import GenerateRequest
from router.openai.openapi import OPENAI_OPERATIONS
from router.openai.request_models import ChatRequest
from tests.support.processes import launched

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a server with the echo engine and short answers."""
    with launched("--echo", "--max-total-tokens", "24") as server:
        yield server.url()
    assert not any("Traceback" in line for line in server.lines)


TIMEOUT = 60
"""Seconds after which a missing response is a failure."""
DERANDOMIZED = 200
"""Up to this number of cases they are always the same, so that no change fails by chance."""
ALL = (*NATIVE_OPERATIONS, *OPENAI_OPERATIONS, *ANTHROPIC_OPERATIONS, *CLOUD_OPERATIONS)
SCHEMA = schemathesis.openapi.from_dict(json.loads(openapi_document(ALL)))
OWNERS = {each.request_model: each for each in reversed(ALL) if each.request_model}
"""The first operation that takes a body of that model; others that take one get the same cases."""
VERTEX = OWNERS[VertexRequest]


def guests(owner: Operation) -> list[Operation]:
    """The operations that get the cases of `owner` too."""
    alike = [
        each
        for each in ALL
        for one in each.aliases_of or (each,)
        if one.request_model and OWNERS.get(one.request_model) == owner
    ]
    instances = [VERTEX] if owner.request_model in (GenerateRequest, ChatRequest) else []
    return [each for each in alike if each != owner] + instances


SHARED = {guest for owner in OWNERS.values() for guest in guests(owner)} - {VERTEX}


@pytest.mark.parametrize(
    "operation",
    [each for each in ALL if each not in SHARED],
    ids=lambda op: f"{op.method} {op.path}",
)
def test_every_case_gets_a_response_that_the_document_describes(
    url: str, operation: Operation, pytestconfig: pytest.Config
) -> None:
    made = SCHEMA[operation.path][operation.method.upper()]
    cases = st.one_of(*(made.as_strategy(generation_mode=mode) for mode in GenerationMode))
    count = pytestconfig.getoption("--cases") // (8 if operation == VERTEX else 1)
    with requests.Session() as session:

        @settings(
            max_examples=count,
            derandomize=count <= DERANDOMIZED,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=cases)
        def answered(case: schemathesis.Case[Any]) -> None:
            for each in (case, *(twin(case, guest) for guest in guests(operation))):
                response = each.call(base_url=url, session=session, timeout=TIMEOUT)
                each.validate_response(response, checks=CHECKS)

        answered()


def twin(case: schemathesis.Case[Any], operation: Operation) -> schemathesis.Case[Any]:
    """The same for another operation; what may be an instance for Vertex AI becomes one."""
    body: Any = case.body
    if operation == VERTEX and isinstance(body, dict):
        body = {"instances": [body]}
    return SCHEMA[operation.path][operation.method.upper()].Case(
        headers=case.headers,
        cookies=case.cookies,
        query=case.query,
        body=body,
        media_type=case.media_type,
    )
