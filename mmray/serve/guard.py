"""Middleware for all requests and answers: the token, and headers for browsers."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmray.serve.problems import Problem

_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cache-Control": "no-store",  # predictions are private, and the page is small
}


class Guard:
    """ASGI middleware.

    Args:
        app: what it guards.
        tokens: sha256 of each token; none: open to all.
        open_paths: that need no token.
    """

    def __init__(self, app: ASGIApp, tokens: frozenset[bytes], open_paths: Collection[str]) -> None:
        self._app = app
        self._tokens = tokens
        self._open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        root = scope.get("root_path", "")
        path = scope["path"].removeprefix(root)
        if not path:  # the page's own links are relative to the directory
            await RedirectResponse(f"{root}/")(scope, receive, send_guarded)
            return
        if self._tokens and path not in self._open_paths and not self._admits(Headers(scope=scope)):
            problem = Problem(
                401,
                "unauthorized",
                "this server requires a bearer token",
                headers={"WWW-Authenticate": 'Bearer realm="mmray"'},
            )
            await problem.response()(scope, receive, send_guarded)
            return
        await self._app(scope, receive, send_guarded)

    def _admits(self, headers: Headers) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        digest = hashlib.sha256(token.strip().encode("latin-1", "replace")).digest()
        # All are compared, as digests of one length: the time does not show which one matches or how much of
        # it.
        fits = [hmac.compare_digest(digest, known) for known in self._tokens]
        return scheme.lower() == "bearer" and any(fits)
