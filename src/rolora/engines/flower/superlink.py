"""Flower's SuperLink behind a gate: from other machines, only nodes may speak to it.

One port serves the sites (Fleet API), the submission of runs (Control API) and the processes that
carry them out (Runtime API). TLS and node authentication guard the first of the three alone;
whoever reaches the port may submit a run, and a run is code. So requests from elsewhere than this
machine get no further than the Fleet API. Flower reads a request whole before it looks who sent it,
so that none may be longer than what a site has reason to send.

Run as a program; it takes the options of ``flower-superlink``.
"""

from __future__ import annotations

import ipaddress
import sys

import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from rolora.core.errors import BadInput
from rolora.engines.flower.bound import end_with_parent

_FLEET = "/v1/fleet/"
_OPEN_TO_ALL = (_FLEET, "/health")
_REQUEST_BYTES = 8 * 2**20
"""More than any piece of an answer (:mod:`rolora.engines.flower.payload`)."""


class Gate:
    """Passes on to `app` what comes from this machine, and what is for the Fleet API."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve or refuse one request."""
        if scope["type"] == "lifespan" or self._allowed(scope):
            if scope["type"] == "http" and not _short(scope):
                refusal = PlainTextResponse("too large", status_code=413)
                await refusal(scope, receive, send)
            else:
                await self._app(scope, receive, send)
        elif scope["type"] == "http":
            refusal = PlainTextResponse("only from the server itself", status_code=403)
            await refusal(scope, receive, send)
        # Anything else, such as a web socket, is dropped: the SuperLink serves none to nodes.

    @staticmethod
    def _allowed(scope: Scope) -> bool:
        if scope["type"] == "http" and scope["path"].startswith(_OPEN_TO_ALL):
            return True
        client = scope.get("client")
        return client is not None and ipaddress.ip_address(client[0]).is_loopback


def _short(scope: Scope) -> bool:
    """Whether a request says how long it is, and is not too long; only nodes' are looked at. The
    server under this one reads no more of a request than it says.
    """
    if not scope["path"].startswith(_FLEET):
        return True
    length = dict(scope["headers"]).get(b"content-length", b"")
    return length.isdigit() and int(length[:20]) <= _REQUEST_BYTES


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    end_with_parent()
    try:
        from rolora.engines.flower.compat.superlink import bounded, superlink_of_command_line
        from rolora.engines.flower.quota import Quota
    except BadInput as error:
        sys.exit(str(error))
    app, serving = superlink_of_command_line()
    # Behind a proxy on this machine every request would seem to come from here.
    uvicorn.run(Gate(bounded(app, Quota())), proxy_headers=True, **serving)


if __name__ == "__main__":
    main()
