"""Contents of /openapi.json beyond the routes: bodies, answers, problems, each with an example."""

from __future__ import annotations

from typing import Any

from mmray.serve.bodies import JSON, MULTIPART, NDJSON
from mmray.serve.problems import MEDIA_TYPE

_NUMBER, _STRING = {"type": "number"}, {"type": "string"}
_MODALITY = {"type": "string", "enum": ["image", "text", "audio"]}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:  # noqa: ANN401  (JSON schema)
    return {"type": "object", "required": required, "properties": properties}


_DECISION = {
    "label": {"type": ["string", "null"], "description": "null: abstained"},
    "score": _NUMBER,
    "abstained": {
        "type": "boolean",
        "description": "the score is too low for a label; only where the server abstains",
    },
    "features": {"type": "array", "items": _NUMBER},
}
_BASE64 = {"type": ["string", "null"], "contentEncoding": "base64", "description": "base64 of a file's bytes"}
_RECORD = {"image": _BASE64, "text": {"type": ["string", "null"]}, "audio": _BASE64}

SCHEMAS: dict[str, Any] = {
    "Prediction": _object(
        ["modalities", "variant", "bundle", "latency_ms"],
        **_DECISION,
        scores={"type": "object", "additionalProperties": _NUMBER},
        modalities={"type": "array", "items": _MODALITY},
        unread={
            "type": "array",
            "items": _STRING,
            "description": "unread input, such as a text in another script; whether it was masked",
        },
        stage={"type": "integer", "description": "of a cascade: which stage answered, from 1"},
        confidence={"type": "number", "description": "of a cascade: confidence of that stage"},
        variant=_STRING,
        bundle={"type": "string", "description": "digest of the bundle"},
        latency_ms=_object(
            ["preprocess", "model", "total"], preprocess=_NUMBER, model=_NUMBER, total=_NUMBER
        ),
        without={"type": "object", "additionalProperties": {"type": "object", "properties": _DECISION}},
    ),
    "Record": {**_object([], **_RECORD), "additionalProperties": False, "minProperties": 1},
    "Form": {
        **_object(
            [],
            image={"type": "string", "format": "binary"},
            text=_STRING,
            audio={"type": "string", "format": "binary"},
        ),
        "additionalProperties": False,
        "minProperties": 1,
    },
    "Model": _object(
        ["name", "labels", "modalities", "variant", "digest", "limits", "samples"],
        name=_STRING,
        labels={"type": "array", "items": _STRING},
        modalities={"type": "array", "items": _MODALITY},
        variant=_STRING,
        digest=_STRING,
        limits={"type": "object", "additionalProperties": _NUMBER},
        samples={"type": "boolean", "description": "whether `GET /v1/samples` has records to try"},
    ),
    "Samples": _object(
        ["samples"],
        samples={
            "type": "array",
            "items": _object(["key", "record"], key=_STRING, record={"$ref": "#/components/schemas/Record"}),
        },
    ),
    "Problem": _object(
        ["type", "title", "status", "detail", "stage", "reason"],
        type=_STRING,
        title=_STRING,
        status={"type": "integer"},
        detail=_STRING,
        stage={
            "type": "string",
            "description": "request, preprocess, infer; as in the rejects of a batch job",
        },
        reason={"type": "string", "description": "stable, to group by"},
    ),
}

_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
_EXAMPLES = {
    "text": {"summary": "only a caption", "value": {"text": "A drake."}},
    "image and text": {
        "summary": "a picture of one pixel, with a caption",
        "value": {
            "text": "A drake.",
            "image": _PIXEL,
        },
    },
}
_PROBLEM_EXAMPLE = {
    "type": "about:blank",
    "title": "Unprocessable Content",
    "status": 422,
    "detail": "the image is truncated",
    "stage": "preprocess",
    "reason": "image-truncated",
}
_SAID = {
    400: "malformed",
    401: "a token is needed",
    405: "method not allowed",
    408: "the body arrived too slowly",
    411: "a body of unknown length",
    413: "too large",
    415: "media type not supported",
    422: "a record that cannot be predicted",
    503: "overloaded, or a replica is missing; try again after Retry-After",
}


def _refer(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route that may answer with these."""
    body = {MEDIA_TYPE: {"schema": _refer("Problem"), "example": _PROBLEM_EXAMPLE}}
    return {status: {"description": _SAID[status], "content": body} for status in statuses}


def answer(name: str) -> dict[int | str, dict[str, Any]]:
    """`responses` for a good answer of this schema."""
    return {200: {"description": "the answer", "content": {JSON: {"schema": _refer(name)}}}}


PREDICT_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {"schema": _refer("Record"), "examples": _EXAMPLES},
            MULTIPART: {"schema": _refer("Form")},
        },
    }
}
BATCH_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            NDJSON: {
                "schema": {"type": "string", "description": "a record and, if you like, an id on each line"},
                "example": '{"id": "a", "text": "A drake."}\n{"id": "b", "text": "A bear."}\n',
            },
            MULTIPART: {
                "schema": {"type": "object", "description": "parts named 0.image, 0.text, 1.audio, …"}
            },
        },
    }
}
BATCH_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "a line for each record, in order: a Prediction or `error`, a Problem; index; id",
        "content": {NDJSON: {"schema": _STRING}},
    }
}
