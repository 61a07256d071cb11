"""The HTTP API over a `Service`, as documented in docs/serving.md. All routes are here."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files
from time import perf_counter
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response

from mmray import __version__
from mmray.serve import openapi
from mmray.serve.bodies import JSON, MULTIPART, NDJSON, check_length, media_type, read_body
from mmray.serve.guard import Guard
from mmray.serve.problems import Problem
from mmray.serve.service import Body, Service
from mmray.serve.traces import span

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEALTH = ("/healthz", "/readyz")
_INDEX = "index.html"

Top = Annotated[int | None, Query(ge=1, le=1_000_000, description="how many labels `scores` has")]
Explain = Annotated[bool, Query(description="also predict without each modality")]
Work = Callable[[Body], Awaitable[Response]]


def web_app(service: Service, tokens: frozenset[bytes]) -> FastAPI:
    """The routes of one bundle.

    Args:
        service: does the work.
        tokens: sha256 of each token; none: open to all.
    """
    app = FastAPI(
        title="mmray",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # Serve makes the span of a request. FastAPI's would start a second trace if the caller started none.
        telemetry={"tracing": False},
    )
    page = _page()
    _add_api(app, service)
    for path, file in page.items():
        app.add_api_route(path, file, methods=["GET"], include_in_schema=False)
    app.add_middleware(Guard, tokens=tokens, open_paths=(*_HEALTH, *page))
    app.add_exception_handler(Problem, _tell)
    app.add_exception_handler(HTTPException, _tell)
    app.add_exception_handler(RequestValidationError, _tell)
    app.add_exception_handler(Exception, _tell)
    app.openapi = lambda: _document(app, bool(tokens))  # type: ignore[method-assign]  # FastAPI's own way
    return app


def _add_api(app: FastAPI, service: Service) -> None:
    settings = service.settings

    async def admitted(request: Request, kinds: Sequence[str], work: Work) -> Response:
        check_length(request, settings.body_bytes)
        with service.admission.request() as arrival:
            kind, boundary = media_type(request, kinds)
            with span("body"):
                data = await read_body(request, settings.body_bytes, settings.body_timeout_s, arrival)
            with service.admission.place():
                return await work(Body(data, kind, boundary))

    async def counted(request: Request, route: str, kinds: Sequence[str], work: Work) -> Response:
        start = perf_counter()
        try:
            response = await admitted(request, kinds, work)
        except Problem as e:
            response = e.response()
        service.metrics.requests.inc(tags={"route": route, "status": str(response.status_code)})
        service.metrics.seconds.observe(perf_counter() - start, tags={"route": route})
        return response

    @app.post(
        "/v1/predict",
        summary="Predict one record",
        response_class=Response,
        responses=openapi.answer("Prediction")
        | openapi.problems(400, 401, 405, 408, 411, 413, 415, 422, 503),
        openapi_extra=openapi.PREDICT_BODY,
    )
    async def predict(request: Request, explain: Explain = False, top: Top = None) -> Response:
        async def work(body: Body) -> Response:
            return _json(await service.predict(body, explain=explain, top=top))

        return await counted(request, "/v1/predict", (JSON, MULTIPART), work)

    @app.post(
        "/v1/predict/batch",
        summary="Predict many records, each separately",
        response_class=Response,
        responses=openapi.BATCH_ANSWER | openapi.problems(400, 401, 405, 408, 411, 413, 415, 503),
        openapi_extra=openapi.BATCH_BODY,
    )
    async def predict_batch(request: Request, top: Top = None) -> Response:
        async def work(body: Body) -> Response:
            lines = [json.dumps(line) for line in await service.predict_batch(body, top=top)]
            return Response("\n".join([*lines, ""]), media_type=NDJSON)

        return await counted(request, "/v1/predict/batch", (NDJSON, MULTIPART), work)

    @app.get(
        "/v1/model",
        summary="What is served",
        response_class=Response,
        responses=openapi.answer("Model") | openapi.problems(401, 405),
    )
    async def model() -> Response:
        return _json(service.model())

    if settings.samples:
        offered = json.dumps(service.samples())

        @app.get(
            "/v1/samples",
            summary="Records of the bundle, to try",
            response_class=Response,
            responses=openapi.answer("Samples") | openapi.problems(401, 405),
        )
        async def samples() -> Response:
            return Response(offered, media_type=JSON)

    @app.get("/healthz", summary="The process is alive", response_class=PlainTextResponse)
    async def healthz() -> Response:
        return PlainTextResponse("ok\n")

    @app.get(
        "/readyz",
        summary="The model is loaded, warm and alive",
        response_class=PlainTextResponse,
        responses=openapi.problems(503),
    )
    async def readyz() -> Response:
        await service.ready()  # Serve sends nothing to a replica that is still loading
        return PlainTextResponse("ready\n")


def _page() -> dict[str, Callable[[], Awaitable[Response]]]:
    """A handler for each file of the page, read once: no request names a file path."""
    found = {}
    for file in files("mmray.serve").joinpath("page").iterdir():
        suffix = "." + file.name.rpartition(".")[2]
        if suffix in _TYPES:
            found["/" if file.name == _INDEX else f"/{file.name}"] = _file(file.read_bytes(), _TYPES[suffix])
    return found


def _file(data: bytes, kind: str) -> Callable[[], Awaitable[Response]]:
    async def respond() -> Response:
        return Response(data, media_type=kind)

    return respond


def _json(value: dict[str, Any]) -> Response:
    return Response(json.dumps(value), media_type=JSON)


async def _tell(request: Request, e: Exception) -> Response:  # noqa: ARG001  (Starlette's signature)
    """Any exception as a problem; details of an unexpected one are only in the log."""
    if isinstance(e, HTTPException):
        reason = {404: "no-such-route", 405: "no-such-method"}.get(e.status_code, "refused")
        e = Problem(e.status_code, reason, str(e.detail), headers=e.headers)
    elif isinstance(e, RequestValidationError):
        first = e.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        e = Problem(400, "query", f"{where}: {first['msg']}")
    elif not isinstance(e, Problem):
        e = Problem(500, "internal", "the server failed on this request; see its log")
    return e.response()


def _document(app: FastAPI, guarded: bool) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        for route in document["paths"].values():
            for operation in route.values():  # FastAPI announces its own 422 for a query; ours is a 400
                said = operation["responses"]
                if "HTTPValidationError" in json.dumps(said.get("422", {})):
                    del said["422"]
        components = document["components"] = {"schemas": openapi.SCHEMAS}
        if guarded:
            components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            document["security"] = [{"token": []}]
        app.openapi_schema = document
    return app.openapi_schema
