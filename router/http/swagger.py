"""`/docs`: Swagger UI from an installed package, and the OpenAPI document that it shows.

Nothing is fetched from elsewhere, so it works without a network.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from aiohttp import web

from router.http.context import PATH_PARAMETERS

CONTENT_TYPES = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}
"""The files that the page needs."""
PAGE_HTML = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<script>
const base = {href: location.pathname.replace(/docs\\/*$/, "")}
document.head.append(Object.assign(document.createElement("base"), base))
</script>
<title>Text generation</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({url: "api-doc/openapi.json", dom_id: "#ui"})</script>
</body>
</html>
"""


class DocsRoutes:
    """The page, its files and the OpenAPI `document`."""

    def __init__(self, document: bytes) -> None:
        self._document = document
        self._asset_folder = _find_asset_folder()

    def routes(self, *, docs_ui: bool) -> list[web.RouteDef]:
        """The routes; without `docs_ui`, the document alone."""
        pages = [web.get("/docs", self.page), web.get("/docs/{name}", self.asset)]
        return [*(pages if docs_ui else ()), web.get("/api-doc/openapi.json", self.document)]

    async def page(self, http: web.Request) -> web.StreamResponse:
        """GET `/docs`."""
        return web.Response(text=PAGE_HTML, content_type="text/html")

    async def asset(self, http: web.Request) -> web.StreamResponse:
        """GET `/docs/{name}`: a file that the page needs; 404 for any other name."""
        name = http[PATH_PARAMETERS]["name"]
        if name not in CONTENT_TYPES:
            raise web.HTTPNotFound
        return web.FileResponse(
            self._asset_folder / name, headers={"Content-Type": CONTENT_TYPES[name]}
        )

    async def document(self, http: web.Request) -> web.StreamResponse:
        """GET `/api-doc/openapi.json`."""
        return web.Response(body=self._document, content_type="application/json")


def _find_asset_folder() -> Path:
    """The folder of files in the package `swagger-ui-py`, whose code is not run."""
    spec = find_spec("swagger_ui")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("swagger-ui-py is not installed")
    return Path(spec.origin).with_name("static")
