"""`/ui` and `/dashboard`, and the files that they load; all are read once, when the server starts.

The pages hold nothing secret, so they need no API key; what they show comes from routes that do. A
strict Content-Security-Policy lets them load, run and contact nothing but this server.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template

from aiohttp import web

from router.http.context import PATH_PARAMETERS, RECEIVED_PATH

STATIC_FOLDER = Path(__file__).with_name("static")


@dataclass(frozen=True, slots=True)
class Page:
    """A page: `name` is that of its content, its style and its script."""

    name: str
    title: str
    status: str
    """The element of the header that says how things are."""


PAGES = {
    "/ui": Page("playground", "Playground", '<p id="model" class="model"></p>'),
    "/dashboard": Page(
        "dashboard", "Dashboard", '<p id="health" class="health" role="status">connecting</p>'
    ),
}
"""By path, in the order of the header's links."""
FRAME = Template((STATIC_FOLDER / "frame.html").read_text(encoding="utf-8"))
"""What all pages have in common."""
CONTENT_TYPES = {".css": "text/css", ".js": "text/javascript"}
ASSETS = frozenset(path.name for path in STATIC_FOLDER.iterdir() if path.suffix in CONTENT_TYPES)
"""Names below `/ui/`."""
PAGE_PATHS = frozenset((*PAGES, *(f"/ui/{name}" for name in ASSETS)))
"""Every path that the pages consist of."""
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
        " img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class PageRoutes:
    """The pages and their files."""

    def __init__(self) -> None:
        self._files = {name: (STATIC_FOLDER / name).read_bytes() for name in ASSETS}
        self._pages = {path: page_html(path).encode() for path in PAGES}

    def routes(self) -> list[web.RouteDef]:
        """The routes."""
        pages = [web.get(path, self.page) for path in PAGES]
        return [*pages, web.get("/ui/{name}", self.asset)]

    async def page(self, http: web.Request) -> web.StreamResponse:
        """GET `/ui`, `/dashboard`: the page, whose links are relative to its path."""
        if http[RECEIVED_PATH].endswith("/"):
            return web.Response(status=308, headers={"Location": f"..{http.path}"})
        return _response(self._pages[http.path], "text/html")

    async def asset(self, http: web.Request) -> web.StreamResponse:
        """GET `/ui/{name}`: a file that the pages load; 404 for any other name."""
        name = http[PATH_PARAMETERS]["name"]
        if name not in ASSETS:
            raise web.HTTPNotFound
        return _response(self._files[name], CONTENT_TYPES[Path(name).suffix])


def page_html(path: str) -> str:
    """The page at `path`: its content in the frame that it shares with the others."""
    page = PAGES[path]
    return FRAME.substitute(
        name=page.name,
        title=page.title,
        status=page.status,
        links="\n    ".join(_links(path)),
        content=(STATIC_FOLDER / f"{page.name}.html").read_text(encoding="utf-8"),
    )


def _links(current: str) -> Iterator[str]:
    """Links from the page at `current` to every page."""
    for path, page in PAGES.items():
        mark = ' aria-current="page"' if path == current else ""
        yield f'<a href="{path[1:]}"{mark}>{page.title}</a>'


def _response(body: bytes, content_type: str) -> web.Response:
    return web.Response(
        body=body, headers=SECURITY_HEADERS, content_type=content_type, charset="utf-8"
    )
