"""Whatever the document allows, and what it does not, gets an answer that the document tells.

schemathesis makes the cases, from the document of a running server; how many for each operation
`--cases` says. No case may bring a 5xx, an unknown status, or a body of another shape.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from signal import SIGTERM

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

from router.hosted import HOSTED
from router.openai.operations import OPENAI
from router.openapi import NATIVE, document
from tests.conftest import ROOT, Processes

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server whose answers are short."""
    started = Processes()
    try:
        flags = ("--echo", "--hostname", "127.0.0.1", "-p", "0", "--max-total-tokens", "24")
        server = started.start(str(ROOT / "launcher.py"), *flags)
        found = re.search(r"http://[\d.:]+", server.line("Connected"))
        assert found
        yield found[0]
        server.signal(SIGTERM)
        assert server.end() == 0
        assert not any("Traceback" in line for line in server.lines)
    finally:
        started.end()


SECONDS = 60
"""After which an answer no longer counts as one."""
FEW = 200
"""Up to so many the cases are always the same, so that nobody's change fails by chance."""
SCHEMA = schemathesis.openapi.from_dict(json.loads(document((*NATIVE, *OPENAI, *HOSTED))))
OPERATIONS = [
    (method.upper(), path) for path, item in SCHEMA.raw_schema["paths"].items() for method in item
]


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_case_gets_an_answer_that_the_document_tells(
    url: str, method: str, path: str, pytestconfig: pytest.Config
) -> None:
    operation = SCHEMA[path][method]
    cases = st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in GenerationMode))
    count = pytestconfig.getoption("--cases")
    with requests.Session() as session:

        @settings(
            max_examples=count,
            derandomize=count <= FEW,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=cases)
        def answered(case: schemathesis.Case) -> None:
            response = case.call(base_url=url, session=session, timeout=SECONDS)
            case.validate_response(response, checks=CHECKS)

        answered()
