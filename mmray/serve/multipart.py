"""multipart/form-data: a body's parts by name, each once, within bounds of their number and headers."""

from __future__ import annotations

from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from mmray.serve.problems import malformed

_PART_HEADERS, _PART_HEADER_BYTES = 8, 4096


def parse_multipart(body: bytes, boundary: bytes, most: int) -> dict[str, bytes]:
    """Bytes of each part, by its name.

    Args:
        body: the whole one.
        boundary: from its header.
        most: maximum number of parts.

    Raises:
        Problem: 400.
    """
    if not boundary:
        raise malformed("multipart/form-data without a boundary")
    parts = _Parts(most)
    try:
        parser = MultipartParser(
            boundary,
            parts.callbacks(),  # type: ignore[arg-type]  # a TypedDict of the same keys
            max_header_count=_PART_HEADERS,
            max_header_size=_PART_HEADER_BYTES,
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as e:
        raise malformed(f"not multipart/form-data: {e!s:.100}") from e
    if not parts.complete:
        raise malformed("the multipart body has no end")
    return parts.found


class _Parts:
    """Callbacks of the multipart parser: parts by name, each once."""

    def __init__(self, most: int) -> None:
        self.found: dict[str, bytes] = {}
        self.complete = False
        self._most = most
        self._field = self._value = b""
        self._name: str | None = None
        self._pieces: list[bytes] = []

    def callbacks(self) -> dict[str, Any]:
        return {
            name: getattr(self, name)
            for name in (
                "on_part_begin",
                "on_part_data",
                "on_part_end",
                "on_header_field",
                "on_header_value",
                "on_header_end",
                "on_headers_finished",
                "on_end",
            )
        }

    def on_part_begin(self) -> None:
        self._name, self._pieces = None, []
        if len(self.found) >= self._most:
            raise malformed(f"more than {self._most} parts")

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        if self._field.lower() == b"content-disposition":
            kind, options = parse_options_header(self._value)
            if kind == b"form-data":
                self._name = options.get(b"name", b"").decode(errors="replace")
        elif self._field.lower() == b"content-transfer-encoding":
            raise malformed("parts with a Content-Transfer-Encoding are not accepted")
        self._field = self._value = b""

    def on_headers_finished(self) -> None:
        if not self._name:
            raise malformed("a part without a name")
        if self._name in self.found:
            raise malformed(f"part {self._name[:40]!r} is given twice")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._pieces.append(data[start:end])

    def on_part_end(self) -> None:
        assert self._name is not None  # checked in on_headers_finished
        self.found[self._name] = b"".join(self._pieces)

    def on_end(self) -> None:
        self.complete = True
