"""A client of `mmray serve`, using only the standard library.

One connection for each request, so that threads may share a client. It follows no redirects and uses no
proxy: a token is sent only to the given host.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection, IncompleteRead
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from mmray.errors import MmrayError, UsageError

#: A record: `image` and `audio` as bytes or as the path of a file, `text`, and, in a batch, an `id`.
Record = Mapping[str, Any]

#: How often a request is sent again whose connection was closed before a whole answer came, as by a proxy
#: that loads new replicas. A prediction changes nothing, so sending it twice is safe.
_RESENT = 3
_CLOSED = (ConnectionResetError, IncompleteRead)  # RemoteDisconnected, too: it is a ConnectionResetError


class ServerError(MmrayError):
    """The server cannot be reached, or refused the request.

    Args:
        message: with place and remedy.
        status: HTTP status; 0 if no answer came.
        problem: the server's problem (RFC 9457): title, detail, stage, reason.
    """

    def __init__(self, message: str, status: int = 0, problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.problem = dict(problem or {})


class Client:
    """Client of one model of one server.

    Args:
        url: of the server, as `http://127.0.0.1:8000`; with the model's path if the server has several.
        token: from its --token-file, if it requires one.
        timeout_s: for each step of a request: to connect, to send, to receive the next bytes.
        patience_s: total time of retries while the server answers 503, at the intervals that it suggests.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        token: str | None = None,
        timeout_s: float = 30.0,
        patience_s: float = 60.0,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{url}: not the URL of a server, such as http://127.0.0.1:8000")
        self._url = url
        self._connection = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._address = (parts.hostname, parts.port)
        self._path = parts.path.rstrip("/")
        if token is not None and not token.strip():
            raise UsageError("the token is blank; give the server's token, or None if it requires none")
        self._headers = {"Authorization": f"Bearer {token.strip()}"} if token is not None else {}
        self._timeout_s = timeout_s
        self._patience_s = patience_s

    def model(self) -> dict[str, Any]:
        """What the server runs: name, labels, modalities, variant, digest, limits."""
        answer: dict[str, Any] = json.loads(self._ask("GET", "/v1/model"))
        return answer

    def predict(self, record: Record, *, explain: bool = False, top: int | None = None) -> dict[str, Any]:
        """Predict one record.

        Args:
            record: any of image, text, audio.
            explain: also predict without each modality (`without` in the answer).
            top: how many labels `scores` has; None: all.

        Returns:
            label, score, scores, modalities, variant, bundle, latency_ms; features if there are no labels.
            If the server abstains, also abstained: true if label is None because of a low score.

        Raises:
            ServerError: not reached, or refused; its `problem` has the stage and the reason.
        """
        query = {"explain": str(explain).lower()} | ({} if top is None else {"top": str(top)})
        path = f"/v1/predict?{urlencode(query)}"
        answer: dict[str, Any] = json.loads(self._ask("POST", path, _line(record), "application/json"))
        return answer

    def predict_batch(self, records: Iterable[Record], *, batch_rows: int = 16) -> Iterator[dict[str, Any]]:
        """Predict many records, `batch_rows` a request.

        Yields:
            For each record, in order: `index`, `id`, and what `predict` gives, or `error` with the problem.

        Raises:
            ServerError: not reached, or a whole batch refused; results yielded before are valid.
        """
        remaining = iter(records)
        first = 0
        while batch := list(islice(remaining, batch_rows)):
            body = b"\n".join(map(_line, batch))
            for line in self._ask("POST", "/v1/predict/batch", body, "application/x-ndjson").splitlines():
                answer = json.loads(line)
                yield answer | {"index": first + answer["index"]}
            first += len(batch)

    def _ask(self, method: str, path: str, body: bytes | None = None, media_type: str = "") -> bytes:
        """Body of a successful answer; retries when a busy server says so, or a connection is closed."""
        headers = self._headers | ({"Content-Type": media_type} if body else {})
        deadline = time.monotonic() + self._patience_s
        closed = 0
        while True:
            try:
                status, wait_s, said = self._exchange(method, path, body, headers)
            except (OSError, HTTPException) as e:
                closed += 1
                if closed > _RESENT or not isinstance(e, _CLOSED):
                    raise ServerError(
                        f"{self._url}: no answer ({e or type(e).__name__}); check that the server runs there"
                    ) from e
                time.sleep(0.1 * closed)
                continue
            if status == 200:
                return said
            if status != 503 or time.monotonic() + wait_s > deadline:
                raise self._refused(status, said)
            time.sleep(wait_s)

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, float, bytes]:
        """Status, seconds to wait before another try, body."""
        with closing(self._connection(*self._address, timeout=self._timeout_s)) as connection:
            with suppress(BrokenPipeError, ConnectionResetError):  # it answered before it received everything
                connection.request(method, self._path + path, body, headers)
            response = connection.getresponse()
            wait = response.headers.get("Retry-After", "")
            return response.status, float(wait) if wait.isdecimal() else 1.0, response.read()

    def _refused(self, status: int, said: bytes) -> ServerError:
        try:
            problem = json.loads(said)
        except ValueError:
            problem = {}
        if not isinstance(problem, dict):
            problem = {}
        why = [str(problem[name]) for name in ("title", "detail") if problem.get(name)]
        reason = ": ".join(why) or said[:200].decode(errors="replace")
        return ServerError(f"{self._url}: {status} {reason}", status, problem)


def _line(record: Record) -> bytes:
    """A record as JSON: media as base64."""
    media = {name: _encoded(record[name]) for name in ("image", "audio") if record.get(name) is not None}
    return json.dumps({**record, **media}).encode()


def _encoded(media: bytes | str | Path) -> str:
    if not isinstance(media, bytes):
        try:
            media = Path(media).read_bytes()
        except OSError as e:
            raise UsageError(f"{e.filename}: cannot be read ({e.strerror}); check the path") from e
    return base64.b64encode(media).decode()
