"""`/ui` and `/dashboard`, and the files that they load; all are read once, when the server starts.

The pages hold nothing secret, so they need no API key; what they show comes from routes that do. A
strict Content-Security-Policy lets them load, run and contact nothing but this server.
"""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from router.http.context import PATH_PARAMETERS, RECEIVED_PATH

STATIC_FOLDER = Path(__file__).with_name("static")
PAGES = {"/ui": "playground.html", "/dashboard": "dashboard.html"}
"""The file of each page."""
CONTENT_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
ASSETS = frozenset(
    path.name for path in STATIC_FOLDER.iterdir() if path.suffix in CONTENT_TYPES.keys() - {".html"}
)
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
        self._files = {name: (STATIC_FOLDER / name).read_bytes() for name in _file_names()}

    def routes(self) -> list[web.RouteDef]:
        """The routes."""
        pages = [web.get(path, self.page) for path in PAGES]
        return [*pages, web.get("/ui/{name}", self.asset)]

    async def page(self, http: web.Request) -> web.StreamResponse:
        """GET `/ui`, `/dashboard`: the page, whose links are relative to its path."""
        if http[RECEIVED_PATH].endswith("/"):
            return web.Response(status=308, headers={"Location": f"..{http.path}"})
        return self._file(PAGES[http.path])

    async def asset(self, http: web.Request) -> web.StreamResponse:
        """GET `/ui/{name}`: a file that the pages load; 404 for any other name."""
        name = http[PATH_PARAMETERS]["name"]
        if name not in ASSETS:
            raise web.HTTPNotFound
        return self._file(name)

    def _file(self, name: str) -> web.Response:
        return web.Response(
            body=self._files[name],
            headers=SECURITY_HEADERS,
            content_type=CONTENT_TYPES[Path(name).suffix],
            charset="utf-8",
        )


def _file_names() -> frozenset[str]:
    return ASSETS | frozenset(PAGES.values())
