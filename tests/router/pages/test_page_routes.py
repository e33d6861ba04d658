"""The pages as they are served: complete, small, and closed to every other address."""

from __future__ import annotations

import re

import pytest

from router.http.access import AccessPolicy
from router.native.request_models import GenerateParameters
from router.openai.request_models import ChatRequest
from router.pages.page_routes import ASSETS, PAGE_PATHS, PAGES, STATIC_FOLDER, page_html
from tests.support.serving import serving

KEY = AccessPolicy(api_keys=("secret",), open_paths=PAGE_PATHS)
MAX_BYTES = 300_000
NOT_OFFERED = {
    *("adapter_id", "best_of", "decoder_input_details", "details", "draft_details"),
    *("n", "stream", "stream_options", "model", "logprobs", "messages", "max_completion_tokens"),
    *("add_generation_prompt", "parallel_tool_calls"),
}
"""Parameters that a stream refuses, that the page sets itself, or that have another name there."""


def text(name: str) -> str:
    return (STATIC_FOLDER / name).read_text()


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_and_every_file_that_it_loads_are_open_even_with_a_key(path: str) -> None:
    async with serving(access=KEY) as server:
        page = await server.request("GET", path)
        links = re.findall(r'(?:src|href)="(ui/[^"]+)"', page.body.decode())
        assert links
        for link in links:
            file = await server.request("GET", f"/{link}")
            kind = "text/css" if link.endswith(".css") else "text/javascript"
            assert (file.status, file.headers["Content-Type"]) == (200, f"{kind}; charset=utf-8")
        assert (await server.request("GET", "/info")).status == 401


@pytest.mark.parametrize("path", sorted(PAGE_PATHS))
async def test_the_browser_is_told_to_contact_nothing_but_the_server(path: str) -> None:
    async with serving() as server:
        headers = (await server.request("GET", path)).headers
    policy = dict(part.split(maxsplit=1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_no_file_names_another_address_or_has_code_inside_its_markup() -> None:
    pages = {path: page_html(path) for path in PAGES}
    for name, content in ({name: text(name) for name in ASSETS} | pages).items():
        addresses = set(re.findall(r"https?://[^\s\"']*", content))
        assert addresses <= {"http://www.w3.org/2000/svg"}, name  # the namespace, never fetched
    for name, content in pages.items():
        assert not re.search(r"<script(?![^>]*src=)|<style| style=| on\w+=", content), name


@pytest.mark.parametrize("path", PAGES)
def test_a_page_links_to_every_page_and_marks_its_own(path: str) -> None:
    links = dict(re.findall(r'<a href="(\w+)"( aria-current="page")?>', page_html(path)))
    assert links.keys() == {*(each[1:] for each in PAGES), "docs"}
    assert [name for name, mark in links.items() if mark] == [path[1:]]


def test_every_import_of_a_script_is_a_file_that_is_served() -> None:
    scripts = [name for name in ASSETS if name.endswith(".js")]
    imported = {each for name in scripts for each in re.findall(r'from "./(.+?)"', text(name))}
    assert imported <= ASSETS


def test_all_files_together_are_small() -> None:
    assert sum(path.stat().st_size for path in STATIC_FOLDER.iterdir()) < MAX_BYTES


def test_the_playground_offers_every_parameter() -> None:
    offered = set(re.findall(r'name: "(\w+)"', text("parameters.js")))
    fields = GenerateParameters.model_fields.keys() | ChatRequest.model_fields.keys()
    assert offered == fields - NOT_OFFERED


@pytest.mark.parametrize("path", PAGES)
async def test_a_slash_at_the_end_leads_to_the_page_so_that_its_links_work(path: str) -> None:
    async with serving() as server:
        answer = await server.request("GET", f"{path}/", allow_redirects=False)
        assert (answer.status, answer.headers["Location"]) == (308, f"..{path}")
        assert (await server.request("GET", f"{path}/")).status == 200


async def test_only_files_of_the_pages_are_served() -> None:
    async with serving() as server:
        for name in ("playground.html", "frame.html", "..%2fpage_routes.py", "nothing.js"):
            assert (await server.request("GET", f"/ui/{name}")).status == 404


async def test_a_server_without_pages_serves_everything_else() -> None:
    async with serving(with_pages=False) as server:
        for path in PAGE_PATHS:
            assert (await server.request("GET", path)).status == 404
        for path in ("/", "/info", "/metrics"):
            assert (await server.request("GET", path)).status == 200
