"""The status page at `/`: voices to try, and the server's state. Its files are served unchanged."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

PAGE = Path(__file__).parent / "page"

_FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    **{f"/{path.name}": (path.name, "text/javascript") for path in PAGE.glob("*.js")},
}
PATHS = frozenset(_FILES)
_HEADERS = {
    # The page loads nothing from other hosts, and no page may frame it.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src"
        " data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def add_routes(app: web.Application) -> None:
    for path, (name, content_type) in _FILES.items():
        app.router.add_get(path, _page((PAGE / name).read_bytes(), content_type))


def _page(body: bytes, content_type: str) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=content_type, charset="utf-8", headers=_HEADERS)

    return handle
