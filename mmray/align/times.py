"""The times in a record: field `times` of its JSON member, validated strictly.

    {"times": {
      "image": {"at_s": 12.48, "offset_s": 0.31, "drift_ppm": 40, "error_ms": 6},
      "audio": {"start_s": 10.0, "sample_rate": 44100.9},
      "text": {"captions": [[11.0, 13.5, "a crow"], [13.5, 15.0, "a cat"]]}
    }}

Each stream has its own clock; `offset_s` and `drift_ppm` convert it to the common one (see `Clock`), and
`error_ms` is the remaining error of its times. Refuses values that are not finite or out of bounds, and
unknown fields.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, ValidationError, model_validator

from mmray.align.clock import Clock
from mmray.errors import RecordError, about_record
from mmray.schema import META_BYTES

MAX_CAPTIONS = 4_096

# Strict: a string or a boolean is not a time. Unix times fit, with a resolution of 0.2 µs; milliseconds and
# nanoseconds since 1970 do not, so that a wrong unit is detected.
Seconds = Annotated[float, Strict(), Field(ge=-1e10, le=1e10, allow_inf_nan=False)]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
# JSON may contain half a surrogate pair, which is not text.
Caption = Annotated[str, AfterValidator(lambda text: text.encode().decode())]


class OutOfStep(RecordError):  # noqa: N818  (a state, not a fault of the bytes)
    """A modality that cannot be aligned; its policy decides how the record is handled."""


class _Stream(BaseModel):
    """Fields of all streams: the relation of their clock to the common one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    offset_s: Seconds = 0.0
    drift_ppm: Number = Field(0.0, ge=-100_000, le=100_000)
    error_ms: Number = Field(0.0, ge=0, le=1e9)

    @property
    def clock(self) -> Clock:
        return Clock(self.offset_s, self.drift_ppm)


class ImageTimes(_Stream):
    """When the picture was taken."""

    at_s: Seconds


class AudioTimes(_Stream):
    """When the clip's first sample was recorded, and its true sample rate if different from its header."""

    start_s: Seconds
    sample_rate: Number | None = Field(None, gt=0, le=1e6)


class TextTimes(_Stream):
    """Captions with their spans, or the span of the text member."""

    captions: tuple[tuple[Seconds, Seconds, Caption], ...] | None = Field(None, max_length=MAX_CAPTIONS)
    span: tuple[Seconds, Seconds] | None = None

    @model_validator(mode="after")
    def _sound(self) -> TextTimes:
        if (self.captions is None) == (self.span is None):
            raise ValueError("either captions or span")
        if any(end < start for start, end in self.spans):
            raise ValueError("a span that ends before it starts")
        return self

    @property
    def spans(self) -> tuple[tuple[float, float], ...]:
        """Start and end of each caption, or of the text member, on the text's own clock."""
        if self.captions is not None:
            return tuple((start, end) for start, end, _ in self.captions)
        return (self.span,) if self.span else ()


class Times(BaseModel):
    """All times of a record; null for a missing stream."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: ImageTimes | None = None
    audio: AudioTimes | None = None
    text: TextTimes | None = None


def parse_times(meta: bytes | None) -> Times:
    """The times in a record's JSON member.

    Raises:
        OutOfStep: there are none ("times-missing"), or they do not match the schema ("times-malformed").
    """
    if meta is None:
        raise OutOfStep("the record has no JSON member", "times-missing")
    if len(meta) > META_BYTES:
        raise OutOfStep(f"a JSON member of more than {META_BYTES} bytes", "times-malformed")
    try:
        with about_record("the JSON member cannot be read", "times-malformed"):
            fields: Any = json.loads(meta)
    except RecordError as e:
        raise OutOfStep(e.reason, e.kind) from e
    if not isinstance(fields, dict) or fields.get("times") is None:
        raise OutOfStep("the JSON member has no field times", "times-missing")
    try:
        return Times.model_validate(fields["times"])
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in ("times", *first["loc"]))
        raise OutOfStep(f"{where}: {first['msg'].lower()}", "times-malformed") from e
