"""What the live page's server answers: its page and its script, to this machine alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from rolora.watch.looks import Look, Runs
from rolora.watch.page import run_page, runs_page

HOSTS = ("127.0.0.1", "localhost")
"""A page of elsewhere whose name was made to lead here asks under that name, and is refused."""
GUARDED = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def make_app(runs: Runs) -> Starlette:
    """The application over `runs`: it answers GET and HEAD, and reads no path that it is asked for.

    A page is made in the server's one thread: matplotlib's settings are the whole process's.
    """
    script = (files("rolora.watch") / "watch.js").read_text(encoding="utf-8")

    async def all_runs(request: Request) -> Response:
        looks = runs.look()
        return _page(request, looks, looks)

    async def one_run(request: Request) -> Response:
        looks = runs.look()
        named = [look for look in looks if look.name == request.path_params["name"]]
        if not named:
            raise HTTPException(404)
        return _page(request, named, looks)

    async def watch_js(request: Request) -> Response:
        return Response(script, media_type="text/javascript", headers=GUARDED)

    return Starlette(
        routes=[
            Route("/", all_runs),
            Route("/watch.js", watch_js),
            Route("/run/{name:path}", one_run),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False)],
    )


def _page(request: Request, shown: Sequence[Look], among: Sequence[Look]) -> Response:
    """The page of the `shown` runs, unless the asker has it already."""
    known = [(look.name, look.state, look.words, look.stamp) for look in shown]
    text = repr((len(among), known))
    headers = {**GUARDED, "ETag": f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'}
    if request.headers.get("If-None-Match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    page = run_page(shown[0], len(among)) if len(shown) == 1 else runs_page(shown)
    return HTMLResponse(page, headers=headers)
