"""Problems of a request as in RFC 9457, with stage and reason like rejects."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 1
#: As RFC 9110 names them; Python's `http` does so from 3.13 on.
_TITLES = {413: "Content Too Large", 422: "Unprocessable Content"}


class Problem(Exception):  # noqa: N818  (RFC 9457's word)
    """A request, or one record of a batch, that gets no prediction.

    Args:
        status: HTTP status.
        reason: a stable identifier to group by, such as ``"image-truncated"``.
        detail: what is wrong, in words.
        stage: where: "request", or a stage of the pipeline (`mmray.schema.Stage`).
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        detail: str,
        *,
        stage: str = "request",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.reason = reason
        self.detail = detail
        self.stage = stage
        self.headers = dict(headers or {})

    @classmethod
    def of_reject(cls, error: Mapping[str, str]) -> Problem:
        """The problem of a record whose row has this `error` (see `mmray.schema.error`)."""
        return cls(422, error["type"], error["reason"], stage=error["stage"])

    def as_json(self) -> dict[str, Any]:
        return {
            "type": "about:blank",
            "title": _TITLES.get(self.status) or HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "stage": self.stage,
            "reason": self.reason,
        }

    def response(self) -> Response:
        body = json.dumps(self.as_json(), ensure_ascii=True)  # a detail may quote half a surrogate pair
        return Response(body, self.status, headers=self.headers, media_type=MEDIA_TYPE)


def malformed(detail: str) -> Problem:
    """The request does not have the form of the API."""
    return Problem(400, "malformed", detail)


def overloaded() -> Problem:
    """The queue is full: retry later."""
    return Problem(
        503,
        "overloaded",
        "the queue is full; try again",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )


def unavailable() -> Problem:
    """The model or its machine failed: a retry may reach another replica."""
    return Problem(
        503,
        "unavailable",
        "no replica could answer; try again",
        stage="infer",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )
